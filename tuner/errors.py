"""Every error that moetune raises on purpose: it names the thing and the mend.

``exit_code`` is what the command line ends with: 2 when it was called wrongly,
1 when it ran and the answer is no.
"""

from __future__ import annotations


class MoetuneError(Exception):
    """Base of all errors a caller may want to catch."""

    exit_code = 1


class UsageError(MoetuneError):
    """A command or function was called with arguments that make no sense."""

    exit_code = 2


class ProblemError(MoetuneError):
    """A MoE layer's description is incomplete, out of range or not known."""

    exit_code = 2


class WeightsError(MoetuneError):
    """An array does not fit the Problem it is given for."""

    exit_code = 2


class TargetError(MoetuneError):
    """A hardware target is not known, or code for it cannot run here."""

    exit_code = 2


class TemplateError(MoetuneError):
    """A template is missing or does not support the Problem."""


class SpaceError(MoetuneError):
    """A template's space file is wrong, or a configuration lies outside it."""


class CompileError(MoetuneError):
    """The toolchain is missing, or refused a source."""


class KernelError(MoetuneError):
    """A compiled kernel does not load or refused a call."""


class WorkerError(MoetuneError):
    """The measuring process crashed, hung or answered nonsense."""


class DatabaseError(MoetuneError):
    """The tuning database cannot be opened, read or written."""


class TokenError(MoetuneError):
    """The file of a service's tokens cannot be read or written."""


class MergeError(MoetuneError):
    """A line of winners from elsewhere is bad."""


class ServiceError(MoetuneError):
    """A service says no, or is away and has no kept answer."""
