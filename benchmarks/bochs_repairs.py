"""Bochs 3.0's source ==> the same with AMX as Intel's manual has it, and a count of the instructions on tiles.

As released, it takes both factors of tdpbusd as unsigned; when threads take turns it saves half of each tile, and rows in place of bytes;
it has no XFD (extended feature disable), without which Linux gives no process tiles; and it refuses gathers by zmm16 to zmm31. What
the instructions on tiles read, write and refuse is left as it is but for that sign.
"""

from __future__ import annotations

import re
from pathlib import Path

COUNTED = ("LDTILECFG", "TILELOADD_TnnnMdq", "TDPBUSD_TnnnTrmTreg", "TILESTORED_MdqTnnn", "TILEZERO_Tnnn", "TILERELEASE")
"""Its functions; the emulator prints `executed NAME TIMES` for each to its standard error when it ends."""
_XFD, _ERROR = "BX_CPU_THIS_PTR msr.ia32_xfd", "BX_CPU_THIS_PTR msr.ia32_xfd_err"
_IS_OFF = f"({_XFD} >> 18 & 1)"
_MSRS = {"XFD": _XFD, "XFD_ERROR": _ERROR}
_COUNTS = """\
#include <cstdio>
static struct Counts {{
  unsigned long long of[{count}];
  ~Counts() {{
    const char *names[] = {{ {names} }};
    for (int n = 0; n < {count}; n++) std::fprintf(stderr, "executed %s %llu\\\\n", names[n], of[n]);
  }}
}} counts;
"""


def _cases(line: str) -> str:
    return "".join(f"    case BX_MSR_IA32_{name}: " + line.format(field=field) + "\n" for name, field in _MSRS.items())


_DESCRIBED = "".join(f' msr_desc[BX_MSR_IA32_{name}] = new MSR_Descriptor("MSR_IA32_{name}", BX_ISA_AMX);' for name in _MSRS)
_READ = _cases("val64 = {field}; break;")
_WRITTEN = _cases("if (val_64 & ~BX_CONST64(0x40000)) return false; {field} = val_64; handleAvxModeChange(); break;")
_SUPPORT = "if (is_cpu_extension_supported(BX_ISA_AMX)) leaf->eax |= 16;"

REPAIRS: tuple[tuple[str, str, str, int], ...] = (
    # the sign of tdpbusd's second factor
    ("cpu/avx/amx.cc", r"Bit32u\(xbyte\[(\d)\]\) \* Bit32s\(ybyte\[\1\]\)", r"Bit32s(xbyte[\1]) * Bit8s(ybyte[\1])", 4),
    # tiles in XSAVE's memory
    ("cpu/avx/amx.h", r"start_row\(0\) \{\}", "start_row(0), tile_use_tracker(0) {}", 1),
    ("cpu/xsave.cc", r"(vmm16u\(8\+n\)\s*= BX_CPU_THIS_PTR amx->tilecfg\[n\]\.)rows", r"\1bytes_per_row", 1),
    ("cpu/xsave.cc", r"(vmmubyte\(48\+n\)\s*= BX_CPU_THIS_PTR amx->tilecfg\[n\]\.)bytes_per_row", r"\1rows", 1),
    ("cpu/xsave.cc", "row < BX_TILE_REGISTERS", "row < BX_TILE_MAX_ROWS", 2),
    ("cpu/xsave.cc", r"tile_use_tracker == 0\)", f"tile_use_tracker != 0 && !{_IS_OFF})", 1),
    # the fifth bit of an index of addresses, taken for a register too many
    ("cpu/decoder/fetchdecode32.cc", r"(i->setSibIndex\(i->sibIndex\(\) \| \(vvv & 0x10\)\);)", r"\1 vvv &= 15;", 1),
    # XFD: two registers, what CPUID says of them, and the exception of instructions on tiles that are off
    ("cpu/cpu.h", r"(\n\s*Bit64u ia32_xss;)", r"\1 Bit64u ia32_xfd, ia32_xfd_err;", 1),
    ("cpu/init.cc", r"(msr\.ia32_xss = 0;)", rf"\1 {_XFD} = {_ERROR} = 0;", 1),
    ("cpu/cpuid.cc", r"(leaf->eax \|= \(1<<3\);)(?=\s*// EBX\[31:00\] - The size)", rf"{{ \1 }} {_SUPPORT}", 1),
    ("cpu/cpuid.cc", r"(leaf->ecx = \(cpu->ia32_xss_suppmask & [^;]*;)", r"\1 if (subfunction == 18) leaf->ecx |= 4;", 1),
    ("cpu/proc_ctrl.cc", r"(if \(! long64_mode\(\) \|\| ! BX_CPU_THIS_PTR cr4\.get_OSXSAVE\(\) \|\|)(?=\s*\(~)", rf"\1 {_IS_OFF} ||", 1),
    (
        "cpu/proc_ctrl.cc",
        r"(XTILECFG_MASK \| BX_XCR0_XTILEDATA_MASK\)\)\s*exception\(BX_UD_EXCEPTION, 0\);)",
        rf"\1 if {_IS_OFF} {{ {_ERROR} = 1 << 18; exception(BX_NM_EXCEPTION, 0); }}",
        1,
    ),
    ("cpu/msr.cc", r"(msr_desc\[BX_MSR_XSS\] = [^;]*;)", rf"\1{_DESCRIBED}", 1),
    ("cpu/msr.cc", r"(    case BX_MSR_XSS:\n      if)", rf"{_READ}\1", 1),
    ("cpu/msr.cc", r"(    case BX_MSR_XSS:\n      \{)", rf"{_WRITTEN}\1", 1),
    # counts
    (
        "cpu/avx/amx.cc",
        r'(#include "amx\.h"\n)',
        r"\1" + _COUNTS.format(count=len(COUNTED), names=", ".join(f'"{name}"' for name in COUNTED)),
        1,
    ),
    *(
        ("cpu/avx/amx.cc", rf"(BX_CPU_C::{name}\(bxInstruction_c \*i\)\s*\{{)", rf"\1 counts.of[{n}]++;", 1)
        for n, name in enumerate(COUNTED)
    ),
)
"""A file, an expression, what takes its place, and how often it stands there."""


def repair(source: Path) -> None:
    """Rewrite Bochs's source in place.

    Raises:
        SystemExit: it is not that of Bochs 3.0, or is repaired already.
    """
    for name, expression, replacement, times in REPAIRS:
        file = source / name
        text, found = re.subn(expression, replacement, file.read_text(errors="surrogateescape") if file.exists() else "")
        if found != times:
            raise SystemExit(f"{name} has {found} places for {expression!r}, not {times}: take the source of Bochs 3.0, as released")
        file.write_text(text, errors="surrogateescape")
