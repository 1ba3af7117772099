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


class FormatError(MoetuneError):
    """Values or blocks that a quantised format cannot hold."""

    exit_code = 2


class TargetError(MoetuneError):
    """A hardware target is not known, or code for it cannot run here."""

    exit_code = 2


class JsonError(MoetuneError, ValueError):
    """A JSON text from outside is none, or holds what could not be stored or written again."""


class TemplateError(MoetuneError):
    """A template is missing or does not support the Problem."""


class SpaceError(MoetuneError):
    """A template's space file is wrong, or a configuration lies outside it."""


class CompileError(MoetuneError):
    """The toolchain is missing, or refused a source."""


class DeviceError(MoetuneError):
    """The GPU that is asked for is not there, or runs none of the kernels."""


class KernelError(MoetuneError):
    """A compiled kernel does not load or refused a call."""


class WorkerError(MoetuneError):
    """The measuring process crashed, hung or answered nonsense."""


class DatabaseError(MoetuneError):
    """The tuning database cannot be opened, read or written."""


class BundleError(MoetuneError):
    """A bundle is refused. Every reason has a class of its own."""


class BundleFormatError(BundleError):
    """The file is no bundle, or its archive is not written the one way that bundles are."""


class BundleTruncatedError(BundleError):
    """Bytes of the archive are missing."""


class BundleExtraDataError(BundleError):
    """Bytes stand before, between or after the members."""


class BundleNameError(BundleError):
    """A member's name could leave the folder that it is for."""


class BundleLinkError(BundleError):
    """A member is a link, a folder or anything else than a plain file."""


class BundleDuplicateError(BundleError):
    """Two members have one name."""


class BundleBombError(BundleError):
    """A bundle is larger than any real one: sizes, ratio of compression, or number of members."""


class BundleManifestError(BundleError):
    """The manifest is missing, malformed, or from another version of the format."""


class BundleManifestSizeError(BundleError):
    """The manifest is larger than any real one."""


class BundleDigestError(BundleError):
    """A member's bytes are not those that were packed."""


class BundleSignatureError(BundleError):
    """The signature does not belong to the manifest."""


class BundleTrustError(BundleError):
    """A bundle is not signed by a trusted key, or that cannot be told here."""


class BundleAbiError(BundleError):
    """The kernels speak another version of the C interface."""


class BundleArchitectureError(BundleError):
    """None of the binaries runs on this processor."""


class BundleProblemError(BundleError):
    """The bundle does not hold the problem, or holds several and none was named."""


class BundleFolderError(BundleError):
    """The folder for extracted members, or that of trusted keys, could be written by others."""


class SelfTestError(BundleError):
    """A bundle's self-test cannot be run here, or its answers are wrong."""


class TokenError(MoetuneError):
    """The file of a service's tokens cannot be read or written."""


class MergeError(MoetuneError):
    """A line of winners from elsewhere is bad."""


class ServiceError(MoetuneError):
    """A service says no, or cannot be reached and has no kept answer."""
