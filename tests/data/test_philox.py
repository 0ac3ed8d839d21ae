"""Random numbers: the same on every machine."""

from __future__ import annotations

import numpy as np

from rislab.data.philox import SECTIONS, raw_words


def test_raw_integers_are_the_same_on_every_machine() -> None:
    words = raw_words(7, "test", "codes", 5, 2, 3)
    key, counter = np.array([7, 2], dtype=np.uint64), np.array([5, 0, 0, SECTIONS.index("codes")], dtype=np.uint64)
    expected = np.random.Philox(key=key, counter=counter).random_raw(3)
    assert words[0].tolist() == expected.tolist()
    assert words.tolist() == [
        [11965511198257845490, 16972191708832087771, 6132966119831743450],
        [2396918128342518294, 2794779416086449979, 17637967352668702213],
    ]
