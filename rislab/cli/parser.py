"""A parser whose errors are one sentence with the nearest option, and whose help fits the terminal."""

from __future__ import annotations

import argparse
import itertools
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from rislab.cli import terminal
from rislab.errors import InputError, did_you_mean

Example = tuple[str, str]  # a command without the word rislab, and what it is for


class CommandParser(argparse.ArgumentParser):
    """The parser of one command; raises InputError where argparse would print its usage.

    Args:
        command: its name.
        examples: shown below the options.
        options: of argparse.ArgumentParser.
    """

    def __init__(self, command: str, examples: Sequence[Example] = (), **options: Any) -> None:
        super().__init__(prog=f"rislab {command}", formatter_class=_Formatter, allow_abbrev=False, **options)
        self.examples = examples
        self.color = False  # argparse of Python 3.14 has colours of its own

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Add one as argparse does; an option of several words that is given again adds to them."""
        if options.get("nargs") == "+":
            options["action"] = _Extended
        return super().add_argument(*names, **options)

    def actions(self) -> list[argparse.Action]:
        """Options and positional arguments, those of groups too."""
        return list(self._actions)

    def flags(self, *, hidden: bool = False) -> list[str]:
        """Long options, and with `hidden` also those that the help does not show."""
        shown = [action for action in self.actions() if hidden or action.help != argparse.SUPPRESS]
        return [flag for action in shown for flag in action.option_strings if flag.startswith("--")]

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse words; an unknown option or a word too many is an InputError."""
        # Checked first: other errors may follow from an unknown option.
        for name in (word.partition("=")[0] for word in args or () if word.startswith("--")):
            if name not in self.flags(hidden=True):
                raise InputError(f"{self.prog} has no option {name}{did_you_mean(name, self.flags())}")
        self._check_pairs(args or ())
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise InputError(
                f"{unknown[0]!r} is a word too many; allowed: {self.format_usage().partition(' ')[2].strip()}"
            )
        return parsed

    def _check_pairs(self, args: Sequence[str]) -> None:
        """An option of several words that is given fewer is an InputError."""
        takes = {flag: one for one in self.actions() for flag in one.option_strings}
        words = list(itertools.takewhile(lambda word: word != "--", args))
        for place, word in enumerate(words):
            option = takes.get(word)
            if option is None or not isinstance(option.nargs, int) or not isinstance(option.metavar, tuple):
                continue
            after = words[place + 1 : place + 1 + option.nargs]
            given = list(itertools.takewhile(lambda one: one not in takes, after))
            if len(given) < option.nargs:
                is_given = " ".join(map(repr, given)) or "nothing"
                raise InputError(f"{word} is given {is_given}; allowed: {' '.join([word, *option.metavar])}")

    def error(self, message: str) -> NoReturn:
        """Raise InputError; the sentence names the option first."""
        raise InputError(message.removeprefix("argument "))

    def format_usage(self) -> str:
        """The positional arguments; the options stand below."""
        if self.usage is None:
            words = [action for action in self.actions() if not action.option_strings]
            names = [f"[{action.metavar}]" if action.nargs == "?" else str(action.metavar) for action in words]
            self.usage = " ".join([self.prog, "[options]", *names])
        return super().format_usage()

    def format_help(self) -> str:
        """Usage, description, options and examples."""
        self.format_usage()
        return super().format_help() + self._examples()

    def _examples(self) -> str:
        if not self.examples:
            return ""
        lines = ["", terminal.painted("examples:", terminal.STRONG)]
        for words, comment in self.examples:
            lines += textwrap.wrap(f"# {comment}", terminal.width(), initial_indent="  ", subsequent_indent="  # ")
            folded = textwrap.wrap(f"rislab {words}", terminal.width() - 6, break_on_hyphens=False)
            lines.append("  " + " \\\n    ".join(folded))
        return "\n".join([*lines, ""])


class _Extended(argparse.Action):
    """Replace the default by the words that are given, and add those that are given again."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, flag: str | None = None
    ) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*(() if before is self.default else before), *values])


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=terminal.width())

    def start_section(self, heading: str | None) -> None:
        super().start_section(heading and terminal.painted(heading, terminal.STRONG))
