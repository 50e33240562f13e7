"""What asks for a CPU or a kernel: compiler flags, code that looks at both."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from buildvm_nb.hints.found import Found
from buildvm_nb.model.hint import HintKind

__all__ = ["find_conditions"]


class _Sign(NamedTuple):
    kind: HintKind
    pattern: re.Pattern[bytes]
    """Begins with fixed bytes, which is what makes it fast."""
    condition: str
    """Empty: what the pattern's group has matched or, where it has none, all of it."""
    why: str


def _sign(kind: HintKind, pattern: str, condition: str = "", *, why: str) -> _Sign:
    return _Sign(kind, re.compile(pattern.encode()), condition, why)


_TUNING, _DISPATCH, _KERNEL = HintKind.CPU_TUNING, HintKind.CPU_DISPATCH, HintKind.KERNEL_VERSION
_FLAG = "the compiler is told to fit code to"
_ASKS = "code asks the CPU for"
_READS = "code reads the kernel's release with"
_FLAGS = "avx|sse|ssse|fma|bmi|f16c|aes|pclmul|popcnt|lzcnt|adx|sha|movbe|rdrnd|xop"
_MACROS = "AVX|SSE|SSSE|FMA|BMI|F16C|AES"
_QUOTED = r"\s{0,4}\(\s{0,4}\"([^\"\n]{1,60})\""

_SIGNS: tuple[_Sign, ...] = (
    _sign(_TUNING, r"-m(?<![\w-]-m)(?:arch|cpu)=([A-Za-z0-9._+-]{1,40})", why=_FLAG),
    _sign(_TUNING, r"-mtune=(?<![\w-]-mtune=)(native)\b", why=_FLAG),
    _sign(_TUNING, rf"-m(?<![\w-]-m)((?:{_FLAGS})[a-z0-9.]{{0,12}})(?![\w=-])", why=_FLAG),
    _sign(_TUNING, r"target-cpu=([A-Za-z0-9._-]{1,40})", why=_FLAG),
    _sign(_TUNING, r"-x(?<![\w-]-x)[Hh]ost\b", "native", why=_FLAG),
    _sign(_DISPATCH, rf"__builtin_cpu_(?:supports|is){_QUOTED}", why=_ASKS),
    _sign(_DISPATCH, rf"_feature_detected!{_QUOTED}", why=_ASKS),
    _sign(_DISPATCH, rf"target(?:_clones)?(?<!\w.target){_QUOTED}", why="code is compiled for"),
    _sign(
        _DISPATCH,
        rf"__(?<!\w__)((?:{_MACROS})[A-Z0-9_]{{0,16}}?)__\b",
        why="code differs where the compiler may use",
    ),
    _sign(_DISPATCH, r"cpu\.(?:X86|ARM64)\.Has([A-Z0-9]{2,20})", why=_ASKS),
    _sign(
        _DISPATCH, r"cpuid(?:(?<=__cpuid)|(?<=_get_cpuid)|(?<=[\"' ]cpuid))\b", "cpuid", why=_ASKS
    ),
    _sign(_DISPATCH, r"getauxval\s{0,4}\(\s{0,4}(AT_HWCAP2?)", why=_ASKS),
    _sign(_DISPATCH, r"/proc/cpuinfo\b", "/proc/cpuinfo", why=_ASKS),
    _sign(_DISPATCH, r"cpu_features", "cpu_features", why=_ASKS),
    _sign(_KERNEL, r"uname\s{1,4}-[a-z]{0,4}[ar][a-z]{0,4}(?![\w-])", "uname -r", why=_READS),
    _sign(_KERNEL, r"os\.uname\b(?<![\w.]os.uname)", "os.uname", why=_READS),
    _sign(_KERNEL, r"os\.release\(\)(?<![\w.]os.release..)", "os.release", why=_READS),
    _sign(_KERNEL, r"platform\.(?:release|uname|platform|version)\b(?=\s{0,2}\()", why=_READS),
    _sign(_KERNEL, r"utsname\b(?<!\wutsname)", "utsname", why=_READS),
    _sign(_KERNEL, r"LINUX_VERSION_CODE\b", "LINUX_VERSION_CODE", why=_READS),
    _sign(_KERNEL, r"KERNEL_VERSION\s{0,2}\(", "KERNEL_VERSION", why=_READS),
    _sign(_KERNEL, r"/proc/(?:version|sys/kernel/(?:osrelease|version))\b", why=_READS),
)


def find_conditions(data: bytes) -> Iterator[Found]:
    """Find what asks for a CPU or a kernel.

    Parameters
    ----------
    data : bytes
        Text.

    Yields
    ------
    Found
        Each condition once for each way of asking, where it is first met.
    """
    for sign in _SIGNS:
        seen: set[str] = set()
        for match in sign.pattern.finditer(data):
            condition = _condition(sign, match)
            if condition not in seen:
                seen.add(condition)
                why = f"{sign.why} {condition}"
                yield Found(sign.kind, why, condition=condition, offset=match.start())


def _condition(sign: _Sign, match: re.Match[bytes]) -> str:
    """Return the condition; features are spelled as QEMU does where that is all there is to it."""
    told = match[sign.pattern.groups].decode("ascii", "replace")
    if sign.kind == _KERNEL:
        return sign.condition or told
    return sign.condition or told.lower().replace("sse4_", "sse4.")
