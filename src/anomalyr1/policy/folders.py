"""Where a model lies: in the package, a folder, a run of training, or the hub; checked, with its revision."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from anomalyr1.files import sha256_of_file
from anomalyr1.images.frames import FAMILIES, Family
from anomalyr1.policy.library import first_line
from anomalyr1.policy.rules import POLICY, Kind
from anomalyr1.policy.safety import check_configuration, check_folder
from anomalyr1.policy.weights import weight_files
from anomalyr1.types import InputError, SetupError, nearest_name

NANO = "nano"
"""The name of the bundled policy."""
NANO_FOLDER = Path(__file__).parent / "nano"
BUNDLED = {NANO: NANO_FOLDER, "nano-raw": NANO_FOLDER.with_name("nano-raw")}
"""The folders of the policies that the package ships, by name. The raw one is a start for experiments: its
reasoning often contradicts its answers."""
RUN_FILES, FINAL = ("run.json", "recipe.yaml"), "final"
"""What lies in the folder of a training run, and the folder in it that holds the policy when it has ended."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_CONFIGURATION = ("*.json", "merges.txt")
_HUB_WEIGHTS = ("*.safetensors",)


class ModelFolder(NamedTuple):
    """A model folder that has been checked and may be loaded."""

    folder: Path
    """Where the files lie."""
    family: Family
    """The family of the model in it."""
    revision: str
    """The commit on the hub, or the digest of a folder's weights and configuration; empty = not computed."""
    name: str
    """What it is called in records: as it was named, but for a run its final model."""


def find_folder(name_or_dir: str, revision: str | None = None) -> ModelFolder:
    """The checked folder of "nano", a folder, a run or a model of the hub; raises as `load_policy` does."""
    folder, family, found_revision = find_model(name_or_dir, revision, POLICY)
    return ModelFolder(folder, FAMILIES[family], found_revision, _name_of(name_or_dir, folder))


def find_model(name_or_dir: str, revision: str | None, kind: Kind) -> tuple[Path, str, str]:
    """The checked folder of a model of this kind, its family, and its revision."""
    local = find_local(name_or_dir)
    folder = local or _download(name_or_dir, revision, kind)
    family = check_folder(folder, kind)
    return folder, family, folder.name if local is None else _revision_of(local, revision)


def find_configuration(name_or_dir: str, revision: str | None = None) -> ModelFolder:
    """As `find_folder`, without the weights of a model of the hub: enough to plan with."""
    local = find_local(name_or_dir)
    folder = local or _download(name_or_dir, revision, POLICY, weights=False)
    family = FAMILIES[check_configuration(folder)]
    return ModelFolder(folder, family, folder.name if local is None else "", _name_of(name_or_dir, folder))


def digest_of(folder: Path) -> str:
    """The digest of a model folder's weights and configuration: "sha256:" and 64 hexadecimal digits."""
    digest = hashlib.sha256()
    configuration = [file for file in folder.iterdir() if file.suffix == ".json" or file.name == "merges.txt"]
    for file in sorted((*weight_files(folder), *configuration)):
        digest.update(f"{file.name} {sha256_of_file(file)}\n".encode("utf-8", "surrogateescape"))
    return f"sha256:{digest.hexdigest()}"


def find_local(name: str) -> Path | None:
    """The folder that `name` means; None = it is the name of a model of the hub.

    Raises `InputError` for what looks like a folder and is none, and for a run that has not ended:
    a mistyped folder is never looked for on the hub.
    """
    if name in BUNDLED:
        if not BUNDLED[name].is_dir():
            raise SetupError(
                f"the bundled policy {name} is not in this installation; install the package again, "
                "or name another model"
            )
        return BUNDLED[name]
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _policy_of_run(folder)
    looks_like_folder = name.startswith((".", "/", "~", "runs/")) or Path(folder.parts[0]).is_dir()
    if looks_like_folder or not _HUB_NAME.fullmatch(name):
        raise InputError(
            f"no model folder {name!r}{_near(folder)}; name a folder with a model in it, the folder of a "
            f"training run, a model of the hub as owner/name, or {' or '.join(BUNDLED)}"
        )
    return None


def _policy_of_run(folder: Path) -> Path:
    """The final model of a training run's folder, and any other folder as it is."""
    is_run = any((folder / name).is_file() for name in RUN_FILES) and not (folder / "config.json").is_file()
    if not is_run:
        return folder
    if not (folder / FINAL).is_dir():
        raise InputError(
            f"{str(folder)!r} is a training run that has not ended, so there is no policy in it yet; go on "
            f"with it (anomalyr1 train RECIPE --out {folder} --resume), or name another model"
        )
    return folder / FINAL


def _near(folder: Path) -> str:
    """Where a folder that is not there may lie, in words; empty where nothing is called alike."""
    parent, missing = folder.parent, folder.name
    while not parent.is_dir():
        parent, missing = parent.parent, parent.name
    near = nearest_name(missing, sorted(path.name for path in parent.iterdir() if path.is_dir()))
    return f" (did you mean {str(parent / near)!r}?)" if near else ""


def _name_of(name: str, folder: Path) -> str:
    """What a model is called in records: as it was named, but for a run its final model."""
    return str(folder) if folder == Path(name).expanduser() / FINAL else name


def _revision_of(folder: Path, revision: str | None) -> str:
    """The commit of a snapshot in the hub's cache, else the digest.

    Raises `InputError` when it is not the `revision` that was pinned.
    """
    place = folder.resolve()
    in_cache = place.parent.name == "snapshots" and _COMMIT.fullmatch(place.name)
    actual = place.name if in_cache else digest_of(folder)
    if revision is not None and revision != actual:
        raise InputError(
            f"{str(folder)!r}: its revision is {actual!r}, expected {revision!r}; "
            "the files are not the ones that were pinned"
        )
    return actual


def _download(name: str, revision: str | None, kind: Kind, weights: bool = True) -> Path:
    """A model of the hub, in its cache; it is refused by its configuration before weights are fetched."""
    from huggingface_hub import errors, snapshot_download

    # Neither is an OSError as all other failures of the network are, and older versions of the library do not
    # have them.
    unreachable = tuple(
        getattr(errors, kind)
        for kind in ("RevisionResolutionError", "XetDownloadError")
        if hasattr(errors, kind)
    )
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(_HUB_CONFIGURATION)))
        check_configuration(folder, kind)
        if weights:
            snapshot_download(
                name, revision=folder.name, allow_patterns=list(_HUB_CONFIGURATION + _HUB_WEIGHTS)
            )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise InputError(
            f"the hub has no model {name!r}{f' at revision {revision!r}' if revision else ''} that you may "
            f"read ({first_line(error)}); check the name, and for a gated model accept its terms on its "
            "page and run: hf auth login"
        ) from error
    except (OSError, *unreachable) as error:
        raise _not_here(name, revision, error) from error
    return folder


def _not_here(name: str, revision: str | None, error: BaseException) -> SetupError:
    pin = f" --revision {revision}" if revision else ""
    return SetupError(
        f"the weights of {name!r} are not on this machine and could not be fetched ({first_line(error)}). "
        f"With a network, run: hf download {name}{pin}. Without one, run on another machine: "
        f"hf download {name}{pin} --local-dir FOLDER, copy FOLDER here, and name it instead of {name!r}"
    )
