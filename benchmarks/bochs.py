"""Debian's packages ==> a machine with AMX in software: Bochs, repaired and built here, boots Debian's kernel on files and a script."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from bochs_repairs import repair

RELEASE, SOURCE = "trixie", "bochs"
BINARIES = ("bochsbios", "vgabios", "isolinux", "syslinux-common", "busybox-static")
KERNEL = "linux-image-cloud-amd64"
TOOLS = {"apt-get": "apt", "dpkg": "dpkg", "g++": "g++", "make": "make", "xorriso": "xorriso", "xz": "xz-utils"}
"""Commands that this machine has to have, and Debian's packages of them."""
OPTIONS = (
    "--with-nogui --disable-plugins --disable-docbook --disable-show-ips --enable-all-optimizations --enable-cpu-level=6 --enable-x86-64"
    " --enable-pci --enable-avx --enable-evex --enable-amx --enable-memtype --enable-monitor-mwait"
)
PARAMETERS = "console=ttyS0,115200 panic=-1 quiet mitigations=off nokaslr no5lvl"
"""Five levels of page tables are off: Bochs 3.0 cannot leave its system management mode with them."""
MEMORY = 1024
"""Megabytes."""
_SETTINGS = """\
megs: {memory}
cpu: model=sapphire_rapids, count=1, ips=100000000, reset_on_triple_fault=0, ignore_bad_msrs=1
romimage: file={bios}
vgaromimage: file={vga}
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path=machine.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=serial.txt
clock: sync=none, time0=0
display_library: nogui
error: action=report
log: bochs.log
panic: action=fatal
"""


Files = Mapping[str, Path | str | bytes]
"""By their places in the machine: files here and content, executable there, and links, which are texts."""


class Machine:
    """What is fetched and built lies in a folder, and is found there again."""

    def __init__(self, folder: Path) -> None:
        """Fetch the packages and build Bochs, a matter of minutes, unless it was done.

        Raises:
            SystemExit: a command, a package or the source is missing, or the build fails: one line says which.
        """
        missing = [package for command, package in TOOLS.items() if shutil.which(command) is None]
        if missing:
            raise SystemExit(f"the machine cannot be built: apt install {' '.join(missing)}")
        self._folder = folder.resolve()
        self._files, self._bochs = self._folder / "files", self._folder / "source" / "bochs"
        if not self._files.exists():
            self._fetch()
        if not self._bochs.exists():
            self._build()

    def boot(self, files: Files, script: str, run: Path, parameters: str = "", limit: float = 7200) -> tuple[str, dict[str, int]]:
        """Start it, and wait until it turns itself off.

        Args:
            files: where they lie there, and what they are: a file here, a link's target, or content.
            script: for busybox's shell, on the first terminal.
            run: a folder of this run's files; `serial.txt` and `bochs.log` tell more where it fails.
            parameters: of the kernel, beside `PARAMETERS`.
            limit: seconds.

        Returns:
            What it printed, and how often each instruction on tiles was executed.

        Raises:
            SystemExit: it did not turn itself off.
        """
        iso = run / "iso"
        (iso / "isolinux").mkdir(parents=True, exist_ok=True)
        start = f"#!/bin/sh\nmount -t proc proc /proc\nmount -t devtmpfs dev /dev\n{script}\npoweroff -f\n"
        busybox = self._files / "usr/bin/busybox"
        commands = {f"bin/{name}": "busybox" for name in ("sh", "mount", "poweroff", "echo")}
        everything: dict[str, Path | str | bytes] = {"bin/busybox": busybox, **commands, "init": start.encode(), **files}
        (iso / "files.gz").write_bytes(gzip.compress(archive(everything, ("proc", "dev")), 1))
        shutil.copy(next(self._files.glob("boot/vmlinuz-*")), iso / "vmlinuz")
        for loader in ("usr/lib/ISOLINUX/isolinux.bin", "usr/lib/syslinux/modules/bios/ldlinux.c32"):
            shutil.copy(self._files / loader, iso / "isolinux")
        command = f"default linux\nprompt 0\nlabel linux\n kernel /vmlinuz\n append initrd=/files.gz {PARAMETERS} {parameters}\n"
        (iso / "isolinux" / "isolinux.cfg").write_text(command)
        image = "-b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table"
        _run(["xorriso", "-as", "mkisofs", "-quiet", "-o", "machine.iso", *image.split(), "iso"], run)
        share = self._files / "usr/share"
        bios, vga = share / "bochs/BIOS-bochs-latest", share / "vgabios/vgabios.bin"
        (run / "bochsrc").write_text(_SETTINGS.format(memory=MEMORY, bios=bios, vga=vga))
        (run / "serial.txt").unlink(missing_ok=True)
        try:
            ended = subprocess.run(
                [self._bochs, "-q", "-f", "bochsrc"], cwd=run, capture_output=True, text=True, errors="replace", timeout=limit, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise SystemExit(f"the machine did not turn itself off within {limit:.0f} s: see {run / 'serial.txt'}") from error
        counts = {name.lower(): int(times) for name, times in re.findall(r"^executed ([A-Z]+)\w* (\d+)$", ended.stderr, re.MULTILINE)}
        serial = run / "serial.txt"
        transcript = serial.read_text(errors="replace").replace("\r", "") if serial.exists() else ""
        if not counts or "reboot: Power down" not in transcript:
            raise SystemExit(f"the machine did not run to its end: see {serial} and {run / 'bochs.log'}")
        return transcript, counts

    def _fetch(self) -> None:
        """Unpack Debian's packages below `files`, and Bochs's source below `source`."""
        apt = self._folder / "apt"
        (apt / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        sites = _run(["apt-get", "indextargets", "--format", "$(ORIGIN) $(SITE)", "Created-By: Packages"]).splitlines()
        site = next((line.split()[1] for line in sites if line.startswith("Debian ") and "security" not in line), None)
        if site is None:
            raise SystemExit("this machine's apt knows no archive of Debian: the machine is built from Debian's packages")
        signed = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
        (apt / "sources.list").write_text("".join(f"{kind} {signed} {site} {RELEASE} main\n" for kind in ("deb", "deb-src")))
        (apt / "status").touch()
        places = {
            "Dir::Etc::sourcelist": "sources.list",
            "Dir::Etc::sourceparts": "none",
            "Dir::State::lists": "lists",
            "Dir::State::status": "status",
            "Dir::Cache": "cache",
        }
        options = [f"-o{name}={apt / place}" for name, place in places.items()] + ["-oAPT::Sandbox::User=root"]
        _run(["apt-get", *options, "update"])
        found = re.search(r"Depends: (linux-image-\d\S*)", _run(["apt-cache", *options, "depends", KERNEL]))
        if found is None:
            raise SystemExit(f"Debian's {KERNEL} depends on no image")
        _run(["apt-get", *options, "download", *BINARIES, found[1]], apt)
        subprocess.run(["apt-get", *options, "source", "--download-only", SOURCE], cwd=apt, capture_output=True, check=False)
        tarball = next(apt.glob("bochs_*.orig.tar.xz"), None)
        if tarball is None:
            raise SystemExit(f"Debian's source package {SOURCE} cannot be fetched: see apt-get source")
        source, files = self._folder / "source", self._folder / "unpacked"
        for folder in (source, files):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        _run(["tar", "xf", str(tarball), "-C", str(source), "--strip-components=1"])
        repair(source)
        for package in apt.glob("*.deb"):
            _run(["dpkg", "-x", str(package), str(files)])
        files.rename(self._files)

    def _build(self) -> None:
        source = self._folder / "source"
        _run(["./configure", *OPTIONS.split(), "CXXFLAGS=-O2"], source)
        _run(["make", f"-j{len(os.sched_getaffinity(0))}"], source)


def archive(files: Files, folders: tuple[str, ...] = ()) -> bytes:
    """A cpio archive as Linux unpacks it at its start: files here and content, executable, links to texts, and empty folders."""
    above = {str(parent) for name in files for parent in Path(name).parents} - {"."}
    entries: list[tuple[str, int, bytes]] = [(name, 0o040755, b"") for name in sorted(above | set(folders))]
    for name, what in files.items():
        content = what.read_bytes() if isinstance(what, Path) else what.encode() if isinstance(what, str) else what
        entries.append((name, 0o120777 if isinstance(what, str) else 0o100755, content))
    found = bytearray()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        for part in (b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0", content):
            found += part + bytes(-len(part) % 4)
    return bytes(found)


def _run(command: list[str], folder: Path | None = None) -> str:
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    if ended.returncode:
        last = (ended.stderr.strip() or ended.stdout.strip() or "no word").splitlines()[-1]
        raise SystemExit(f"{' '.join(command[:2])}: {last}")
    return ended.stdout
