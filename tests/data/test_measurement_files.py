"""Files of measurements: each format gives back what was written, and no file does more than be read."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rislab.data import measurement_files
from rislab.data.measurement_files import measurement_of, read_measurement, template_fields, write_template
from rislab.errors import InputError

PACKAGES = {".npz": "numpy", ".csv": "numpy", ".mat": "scipy", ".h5": "h5py"}


@pytest.fixture(params=PACKAGES)
def suffix(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(PACKAGES[request.param])
    return str(request.param)


def test_a_template_is_read_back_as_it_was_written(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"example{suffix}"
    write_template(file)
    own, fields = read_measurement(file), template_fields()
    np.testing.assert_array_equal(own.snapshots[0], fields["snapshots"])
    np.testing.assert_array_equal(own.codes[0], fields["codes"])
    np.testing.assert_array_equal(own.channel[0], fields["channel"])
    assert own.array.wavelength == fields["wavelength"] and own.config.symbols == "constant"
    assert own.noise_power is not None and float(own.noise_power[0]) == pytest.approx(fields["noise_power"])
    with pytest.raises(InputError, match="is there already"):
        write_template(file)


def test_elements_frequency_and_an_array_without_a_surface() -> None:
    elements = np.stack([np.zeros(6), np.arange(6) * 0.05 - 0.125, np.zeros(6)], axis=1)
    fields = {"snapshots": np.ones((4, 6)), "elements": elements, "frequency": 3e9, "azimuth": (-0.5, 0.5)}
    own = measurement_of(fields)
    assert own.array.wavelength == pytest.approx(0.0999308193)
    assert own.config.azimuth == (-0.5, 0.5) and own.channel.shape == (1, 6, 6)
    assert measurement_of(fields | {"wavelength": 0.1}).array.wavelength == 0.1
    one = measurement_of(fields | {"snapshots": np.ones(6)})
    assert one.snapshots.shape == (1, 1, 6)


def test_one_antenna_may_come_without_its_axis() -> None:
    rng = np.random.default_rng(0)
    fields = {"snapshots": rng.random(9), "codes": rng.random((9, 4)), "channel": rng.random(4), "wavelength": 0.1}
    own = measurement_of(fields | {"rows": 2, "columns": 2, "spacing": 0.05})
    assert own.snapshots.shape == (1, 9, 1) and own.channel.shape == (1, 1, 4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"snapshots": None}, "snapshots is missing; it holds codes"),
        ({"snapshots": None, "snapshot": 1}, "snapshots is missing, perhaps 'snapshot'"),
        ({"codes": None}, "codes is missing"),
        ({"channel": None}, "channel is missing"),
        ({"wavelength": None}, "wavelength is missing"),
        ({"rows": None}, "elements is missing"),
        ({"wavelength": [1.0, 2.0]}, "wavelength holds 2 values"),
        ({"wavelength": None, "frequency": 5.53}, "frequency is 5.53; allowed"),
        ({"frequency": 6e9}, r"wavelength is 0\.1, and frequency 6e\+09 has a wavelength of 0\.04997; allowed: one"),
        ({"snapshots": np.ones((0, 2))}, r"snapshots has shape \(0, 2\); allowed: a table that is not empty"),
        ({"codes": None, "channel": None, "snapshots": np.ones((16, 9))}, r"snapshots has shape \(16, 9\).*transpose"),
        (
            {"codes": None, "channel": None, "snapshots": np.ones((9, 32))},
            r"with x = snapshots it is x\[:, 0::2\] \+ 1j",
        ),
        ({"codes": None, "channel": None, "snapshots": np.ones(64)}, r"with x = snapshots.reshape\(-1, 32\) it is"),
        (
            {"codes": None, "channel": None, "snapshots": np.full((9, 16), np.nan)},
            r"snapshots\[0, 0\] is NaN or infinite",
        ),
        ({"azimuth": [1.0, 2.0, 3.0]}, "azimuth holds 3 values"),
        ({"wavefront": "flat"}, "wavefront is 'flat'"),
        ({"elements": 1j * np.ones((16, 3))}, "elements are complex"),
        ({"rows": 4.5}, r"rows is 4.5; allowed: a whole number in \[1, 4096\]"),
        ({"columns": np.inf}, "columns is inf"),
        ({"wavelength": 0.1 + 0.2j}, r"wavelength is \(0.1\+0.2j\); allowed: real numbers"),
        ({"azimuth": [-1.0, 1j]}, "azimuth is 1j; allowed: real numbers"),
        ({"noise_power": 1 + 1j}, r"noise_power is \(1\+1j\); allowed: real numbers"),
        ({"noise_power": None, "noise_powr": 0.1}, "noise_powr is no field, did you mean 'noise_power'"),
    ],
)
def test_what_is_missing_or_wrong_is_named(changes: dict[str, Any], said: str) -> None:
    fields = {name: value for name, value in (template_fields() | changes).items() if value is not None}
    with pytest.raises(InputError, match=said):
        measurement_of(fields)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    for name, content, said in (
        ("a.npz", b"no archive", "a.npz: it is no NPZ file"),
        ("a.csv", b"x,y\n1,2\n", "columns quantity, row, column, real are missing; it has x, y"),
        ("semicolons.csv", b"quantity;row;column;real\ncodes;0;0;1,5\n", "columns stand apart by ';'; allowed: by ','"),
        ("tabs.csv", b"quantity\trow\tcolumn\treal\n", r"columns stand apart by '\\t'; allowed"),
        ("b.csv", b"quantity,row,column,real\nsnapshots,0,zero,1\n", "line 2: column of snapshots is 'zero'; allowed"),
        (
            "c.csv",
            b"quantity,row,column,real\ncodes,0,0,1\ncodes,1,1,1\n",
            r"codes has 2 entries in a table of 1 × 2 × 2",
        ),
        ("d.csv", b"quantity,row,column,real\ncodes,0,0,1\ncodes,0,0,2\n", r"line 3: codes\[0, 0, 0\] stands .* twice"),
        ("e.csv", b"quantity,row,column,real\ncodes,-1,0,1\n", "negative row"),
        (
            "g.csv",
            b"quantity,row,column,real,imag\ncodes,0,0,1,\ncodes,0,1,0,5,0,1\n",
            "line 3 has 7 columns; allowed: quan",
        ),
        (
            "h.csv",
            b"quantity,row,column,real,imag\ncodes,0,0,1,abc\n",
            "line 2: imag of codes is 'abc'; allowed: a number",
        ),
        ("i.csv", b"quantity,row,column,real,imag\ncodes,0,0,,1\n", "line 2: real of codes is ''; allowed: a number"),
        ("f.csv", b"\xff\xfe\x00", "f.csv: it is no table of numbers"),
        ("a.txt", b"", r"ends in '.txt'; allowed: .npz, .mat"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=said):
            read_measurement(tmp_path / name)
    with pytest.raises(InputError, match="is no file"):
        read_measurement(tmp_path / "none.npz")
    with pytest.raises(InputError, match=r"\. ends in 'nothing'; allowed"):
        read_measurement(".")


def test_names_of_columns_may_have_space_around_them(tmp_path: Path) -> None:
    write_template(tmp_path / "close.csv")
    text = (tmp_path / "close.csv").read_text()
    (tmp_path / "apart.csv").write_text(text.replace(",", " , "))
    close, apart = (read_measurement(tmp_path / name) for name in ("close.csv", "apart.csv"))
    assert torch.equal(close.snapshots, apart.snapshots)


def test_a_number_that_is_none_is_refused_as_such(tmp_path: Path) -> None:
    """Not as one that stands in the file twice: it is equal to nothing, itself included."""
    file = tmp_path / "example.csv"
    write_template(file)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], "snapshots,0,0,nan,0", *lines[2:]]))
    with pytest.raises(InputError, match=r"snapshots\[0, 0\] is NaN or infinite"):
        read_measurement(file)


def test_no_pickle_is_read(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Bad:
        def __reduce__(self) -> Any:
            return (Path.touch, (marker,))

    np.savez(tmp_path / "bad.npz", snapshots=np.array([Bad()], dtype=object), allow_pickle=True)
    (tmp_path / "raw.npz").write_bytes(pickle.dumps(Bad()))
    for name in ("bad.npz", "raw.npz"):
        with pytest.raises(InputError, match="it is no NPZ file of plain arrays"):
            read_measurement(tmp_path / name)
    assert not marker.exists()


def test_no_link_to_another_file_is_followed(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    write_template(tmp_path / "other.h5")
    with h5py.File(tmp_path / "links.h5", "w") as file:
        file["snapshots"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "snapshots")
    with h5py.File(tmp_path / "outside.h5", "w") as file:
        file.create_dataset("snapshots", (4,), "f8", external=[(str(tmp_path / "raw.bin"), 0, 32)])
    with h5py.File(tmp_path / "group.h5", "w") as file:
        file.create_group("snapshots")
    for name, said in (
        ("links.h5", "snapshots is a link to another file"),
        ("outside.h5", "snapshots is no plain table"),
        ("group.h5", "snapshots is no plain table"),
    ):
        with pytest.raises(InputError, match=said):
            read_measurement(tmp_path / name)
    (tmp_path / "none.h5").write_bytes(b"nothing")
    with pytest.raises(InputError, match="it is no HDF5 file"):
        read_measurement(tmp_path / "none.h5")


def test_a_file_that_ends_its_reader_is_refused(tmp_path: Path) -> None:
    """A table of a type that MATLAB does not have: scipy's reader, in C, looks behind the end of its own table."""
    pytest.importorskip("scipy")
    write_template(tmp_path / "a.mat")
    content = (tmp_path / "a.mat").read_bytes()
    size = template_fields()["channel"].size * 8
    doubles = (9).to_bytes(4, "little") + size.to_bytes(4, "little")
    assert content.count(doubles) == 2  # real and imaginary parts
    (tmp_path / "b.mat").write_bytes(content.replace(doubles, bytes(4) + doubles[4:]))
    with pytest.raises(InputError, match="its reader did not come to an end"):
        read_measurement(tmp_path / "b.mat")


def test_a_table_of_anything_but_numbers_is_refused(tmp_path: Path) -> None:
    for strange in (np.zeros(4, "f8,f8"), np.array(["a"]), np.zeros(2, "m8[s]")):
        with pytest.raises(InputError, match="codes holds values of type .*; allowed: numbers"):
            measurement_of({**template_fields(), "codes": strange})


def test_matlab_7_3_writes_hdf5_with_its_axes_turned(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    pytest.importorskip("scipy")
    pair = np.dtype([("real", "f8"), ("imag", "f8")])
    file = tmp_path / "new.mat"
    with h5py.File(file, "w", userblock_size=512) as content:
        for name, value in template_fields().items():
            if isinstance(value, str):
                data, kind = np.array([[ord(letter)] for letter in value], dtype=np.uint16), b"char"
            else:
                table = np.atleast_2d(np.asarray(value)).T
                kind, data = b"double", table
                if np.iscomplexobj(table):
                    data = np.empty(table.shape, pair)
                    data["real"], data["imag"] = table.real, table.imag
            content[name] = data
            content[name].attrs["MATLAB_class"] = np.bytes_(kind)
    head = b"MATLAB 7.3 MAT-file, Platform: none".ljust(124) + (0x0200).to_bytes(2, "little") + b"IM"
    with file.open("r+b") as raw:
        raw.write(head)
    np.testing.assert_allclose(read_measurement(file).snapshots[0], template_fields()["snapshots"])
    (tmp_path / "none.mat").write_bytes(b"nothing")
    with pytest.raises(InputError, match="it is no MAT file"):
        read_measurement(tmp_path / "none.mat")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "a.h5").write_bytes(b"")
    with pytest.raises(InputError, match=r"HDF5 files need h5py; install it with pip install 'rislab\[data\]'"):
        read_measurement(tmp_path / "a.h5")


def test_a_batch_has_a_column_of_scenes(tmp_path: Path) -> None:
    fields = template_fields()
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    write_template(one)
    with one.open(newline="") as source, two.open("w", newline="") as target:
        rows = list(csv.DictReader(source))
        writer = csv.DictWriter(target, ["scene", *measurement_files.COLUMNS])
        writer.writeheader()
        for row in rows:
            for scene in (0, 1) if row["quantity"] == "snapshots" else (0,):
                writer.writerow({"scene": scene, **row})
    own = read_measurement(two)
    assert len(own) == 2
    np.testing.assert_array_equal(own.snapshots[1], fields["snapshots"])
