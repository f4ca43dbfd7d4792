"""What this machine has and what is missing: versions against floors, device, memory, disk, extras, licences
of models.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from anomalyr1.cli.cores import usable_cores
from anomalyr1.cli.terminal import OK, SETUP_ERROR, say

EXTRAS = {
    "train": "what fine-tuning with SFT and GRPO needs",
    "serve": "what an HTTP service will need (not in this version)",
    "endpoint": "what models behind an OpenAI-compatible URL need",
    "vllm": "what the engine vllm needs, on a GPU",
    "elpv": (
        "what the ELPV data set of solar cells needs (CC BY-NC-SA 4.0; downloads the package, which "
        "holds the images)"
    ),
    "dev": "tests and checks of this package itself",
}
"""What each optional group of packages adds."""

PYTHON_FLOORS = {(3, 11): (3, 11, 13), (3, 12): (3, 12, 11), (3, 13): (3, 13, 4)}
"""The oldest release of each minor version that has the corrections of CVE-2025-4517 and its like."""

MODELS = ("nano", "Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen3-VL-4B-Instruct")
"""Models whose licences the report names."""


class Finding(NamedTuple):
    """One line of the report."""

    ok: bool
    """False makes `doctor` fail."""
    text: str
    doubtful: bool = False
    """Whether it works, but should be mended."""


def examine() -> list[Finding]:
    """All findings, in the order to print them."""
    return [
        python(sys.version_info[:3]),
        *packages(_requirements()),
        *_device(),
        *_space(),
        *_models(),
    ]


def python(version: tuple[int, int, int]) -> Finding:
    """Whether the interpreter is one with the corrections of June 2025."""
    text = f"Python {'.'.join(map(str, version))} on {platform.platform()}"
    floor = PYTHON_FLOORS.get(version[:2])
    if floor is None or version >= floor:
        return Finding(True, text)
    reason = f"before {'.'.join(map(str, floor))} its tarfile could write outside a folder (CVE-2025-4517)"
    return Finding(True, f"{text}: {reason}; update it", doubtful=True)


def packages(requirements: Sequence[str]) -> Iterator[Finding]:
    """Check requirement strings (PEP 508) against what is installed: a needed package must fit, an extra's
    package may be absent.
    """
    from packaging.requirements import Requirement

    parsed = [Requirement(text) for text in requirements]
    if not parsed:
        yield Finding(
            False,
            (
                "anomalyr1 is not installed as a package, so its floors are unknown: "
                'run "pip install -e ." in its checkout'
            ),
        )
    for requirement in parsed:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _package(requirement.name, str(requirement.specifier), _installed(requirement.name))
    for extra, adds in EXTRAS.items():
        members = [
            r
            for r in parsed
            if r.marker and not r.marker.evaluate({"extra": ""}) and r.marker.evaluate({"extra": extra})
        ]
        lacking = [
            r.name for r in members if not r.specifier.contains(_installed(r.name) or "0", prereleases=True)
        ]
        if members and lacking:
            yield Finding(
                True,
                (
                    f'extra {extra}: adds {adds}; add it with: pip install ".[{extra}]" in the checkout '
                    f"(lacks {', '.join(lacking)})"
                ),
            )
        elif members:
            yield Finding(True, f"extra {extra}: installed, {adds}")


def machine() -> str:
    """The GPUs of this machine, or its cores, in a line."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.partition(":")[2].strip()
            for line in info.read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ]
        name = models[0] if models else name
    return f"{usable_cores()} CPU cores ({name})"


def _package(name: str, floor: str, version: str | None) -> Finding:
    from packaging.specifiers import SpecifierSet

    if version is None:
        return Finding(False, f'{name} is missing, {floor} is needed: pip install "{name}{floor}"')
    if not SpecifierSet(floor).contains(version, prereleases=True):
        return Finding(
            False, f'{name} {version} does not fit, {floor} is needed: pip install "{name}{floor}"'
        )
    return Finding(True, f"{name} {version} ({floor})" if floor else f"{name} {version}")


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _requirements() -> Sequence[str]:
    try:
        return metadata.requires("anomalyr1") or []
    except metadata.PackageNotFoundError:
        return []


def _device() -> Iterator[Finding]:
    try:
        import torch
    except ImportError as error:
        yield Finding(False, f"torch cannot be loaded ({error}): pip install torch torchvision")
        return
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        yield Finding(True, f"GPU {index}: {facts.name}, {facts.total_memory / 2**30:.0f} GB")
    if not torch.cuda.is_available():
        yield Finding(
            True,
            (
                f"no GPU: models run on the CPU, {usable_cores()} cores; the nano model is fine with that, "
                "billions of "
                "parameters are slow"
            ),
        )


def _space() -> Iterator[Finding]:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        yield Finding(
            True, f"memory: {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GB"
        )
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield Finding(True, f"disk: {free:.0f} GB free here")


def _models() -> Iterator[Finding]:
    from anomalyr1.policy.licences import licence_of

    for model in MODELS:
        yield Finding(True, f"licence of the model {model}: {licence_of(model)}")


def doctor() -> int:
    """Check this machine: versions, device, memory, disk, extras and licences."""
    findings = examine()
    for finding in findings:
        mark = "?? " if finding.doubtful else "ok "
        say(f"{mark if finding.ok else 'BAD'} {finding.text}")
    return OK if all(finding.ok for finding in findings) else SETUP_ERROR
