"""`rislab completion`: what a shell needs to complete commands, options and their values."""

from __future__ import annotations

import argparse
import re
import string
from collections.abc import Sequence
from pathlib import Path

from rislab.checkup.rules import RULES
from rislab.errors import InputError, check_choice

EXAMPLES = (
    ("completion bash > ~/.local/share/bash-completion/completions/rislab", "bash"),
    ("completion zsh > ~/.zfunc/_rislab", "zsh; ~/.zfunc stands in fpath, before compinit"),
    ("completion fish > ~/.config/fish/completions/rislab.fish", "fish"),
)
SHELLS = ("bash", "zsh", "fish")
STATIC = Path(__file__).parent / "static"


def add(parser: argparse.ArgumentParser) -> None:
    """Give the parser its options."""
    parser.description = "Print what bash, zsh or fish needs to complete commands, options and their values."
    parser.add_argument("shell", metavar="SHELL", help=", ".join(SHELLS))


def run(options: argparse.Namespace) -> int:
    """The command itself; returns its exit code."""
    check_choice("SHELL", options.shell, SHELLS)
    print(completion(options.shell), end="")
    return 0


def completion(shell: str) -> str:
    """The script of a shell, made of the options that the commands declare."""
    from rislab.cli.main import COMMANDS, parser_of

    options = {
        name: [each for each in parser_of(name).actions() if each.option_strings and each.help != argparse.SUPPRESS]
        for name in COMMANDS
    }
    cases = _fish(options, COMMANDS) if shell == "fish" else _cases(options)
    template = string.Template((STATIC / f"completion.{shell}").read_text(encoding="utf-8"))
    return template.safe_substitute(commands=" ".join(COMMANDS), cases=cases)


def _values(action: argparse.Action) -> Sequence[str]:
    """Words that an option takes; none if they are not known, as those of a file."""
    return [str(each) for each in getattr(action, "values", None) or action.choices or ()]


def _names(command: str) -> Sequence[str]:
    """Words that stand for NAME, SHELL or CODE of a command; none if they are not known, as those of a file."""
    if command not in ("report", "sweep", "app"):
        return {"completion": SHELLS, "explain": list(RULES)}.get(command, ())

    from rislab.reports import gallery, notebooks

    try:
        return list(notebooks.available() | ({} if command == "app" else gallery.set_files()))
    except InputError:  # outside of a checkout there are none
        return ()


def _cases(options: dict[str, list[argparse.Action]]) -> str:
    """Lines of a `case`: options of a command, and values of an option."""
    lines = []
    for name, actions in options.items():
        flags = " ".join(flag for action in actions for flag in action.option_strings)
        lines.append(f'    "{name}:") choices="{flags}" ;;')
        if names := _names(name):
            lines.append(f'    "{name}=") choices="{" ".join(names)}" ;;')
        for action in actions:
            if action.nargs != 0:
                pattern = "|".join(f'"{name}:{flag}"' for flag in action.option_strings)
                values = _values(action)
                lines.append(f"    {pattern}) " + (f'choices="{" ".join(values)}" ;;' if values else "files=1 ;;"))
    return "\n".join(lines)


def _fish(options: dict[str, list[argparse.Action]], commands: dict[str, str]) -> str:
    lines = [f"complete -c rislab -n __fish_use_subcommand -a {name} -d {_quoted(commands[name])}" for name in options]
    for name, actions in options.items():
        if names := _names(name):
            lines.append(f"complete -c rislab -n '__fish_seen_subcommand_from {name}' -fa {_quoted(' '.join(names))}")
        for action in actions:
            words = [f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in action.option_strings]
            words += [] if action.nargs == 0 else ["-r"]
            words += [f"-xa {_quoted(' '.join(values))}"] if (values := _values(action)) else []
            words.append(f"-d {_quoted(re.sub(r' [(][^()]*[)]', '', action.help or '').replace('%%', '%'))}")
            lines.append(f"complete -c rislab -n '__fish_seen_subcommand_from {name}' {' '.join(words)}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
