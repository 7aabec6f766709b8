"""Checkpoints before any model is built: safe reading, what a file looks like, its training step, its hash."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import MIError
from . import compat
from .compat_checkpoints import Inert, is_trusted

CHECKPOINT_SUFFIXES = (".pt", ".pth", ".ckpt", ".th", ".bin", ".safetensors")

SPEECH_ENCODERS = (
    "wav2vec2",
    "hubert",
    "wavlm",
    "data2vec-audio",
    "unispeech",
    "unispeech-sat",
    "wav2vec2-conformer",
    "wav2vec2-bert",
)
"""`model_type` of the Hugging Face models that `-u hf` reads: one sequence of frames, the same in each layer."""

_STEP_KEYS = ("step", "global_step", "num_updates", "steps", "iteration", "epoch")
# A number that stands by itself or behind a word for training time: step5000, epoch_3, hubert-000960, 400k;
# neither a decimal (val_loss=2.35) nor part of a name (ls960, wav2vec2, 360hr, ll60k).
_STEP_IN_NAME = re.compile(
    r"(?:(?<![A-Za-z0-9])(?<!\d\.)|(?<=step)|(?<=steps)|(?<=epoch)|(?<=ep)|(?<=iter)|(?<=it)|(?<=update)|(?<=updates)"
    r"|(?<=ckpt)|(?<=checkpoint))(\d+)(k?)(?![A-Za-z0-9]|\.\d)",
    re.IGNORECASE,
)
_WEIGHT_FILES = ("model", "pytorch_model", "checkpoint", "consolidated")


def plain(value: Any) -> Any:
    """Dicts, lists and scalars instead of the containers that a checkpoint's config was saved in."""
    if isinstance(value, Inert):
        state = value.__dict__["state"]
        if isinstance(state, tuple):  # (__dict__, slots)
            state = next((s for s in state if isinstance(s, dict)), {})
        for key in ("_content", "content", "_val"):  # omegaconf's containers and leaves
            if isinstance(state, dict) and key in state:
                return plain(state[key])
        if state or value.__dict__["items"]:
            return plain(state or value.__dict__["items"])
        args = value.__dict__["args"]
        return plain(args[0]) if len(args) == 1 else [plain(a) for a in args]
    if isinstance(value, Mapping):
        return {plain(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if type(value).__name__ == "Namespace":
        return plain(vars(value))
    return value


def read_checkpoint(path: Path) -> Any:
    """The content of a file written by `torch.save`, on the CPU, without running any code from it.

    Objects of classes that torch does not know become `Inert`. Tensors stay on disk until they are used
    where the file's format allows that (torch >= 1.6), so looking at a large file is cheap.

    Raises:
        MIError: not a file of torch.save, or one that cannot be read safely.
    """
    import torch

    compat.apply()
    try:
        with warnings.catch_warnings(), path.open("rb") as stream:
            warnings.simplefilter("ignore")
            is_zip = stream.read(4) == b"PK\x03\x04"
            foreign = torch.serialization.get_unsafe_globals_in_checkpoint(str(path)) if is_zip else []
            with torch.serialization.safe_globals([(Inert, name) for name in foreign]):
                safe = is_zip or not is_trusted()
                return torch.load(path, map_location="cpu", weights_only=safe, mmap=is_zip)
    except Exception as error:  # whatever is in the file, the reason is passed on
        raise MIError(f"checkpoint {str(path)!r} is {_unreadable(path, error)}.{trust(error)}") from error


def _unreadable(path: Path, error: Exception) -> str:
    """What a file is, by its first bytes, that torch cannot read."""
    with contextlib.suppress(OSError), path.open("rb") as stream:
        head = stream.read(40)
        if not head:
            return "an empty file"
        if head.startswith(b"version https://git-lfs"):
            return "a Git LFS pointer, not the weights; fetch them with `git lfs pull`"
        if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < path.stat().st_size:
            return "a safetensors file; its folder, with config.json, is what -u hf reads"
        if head.isascii() and all(chr(b).isprintable() or chr(b).isspace() for b in head):
            return f"a text file, no checkpoint (it begins with {' '.join(head.decode().split())!r})"
        if head.startswith(b"PK"):
            return "a PyTorch checkpoint that is damaged or cut short"
    return f"no PyTorch checkpoint that can be read safely ({one_line(error)})"


def trust(error: BaseException) -> str:
    """What a user may do who trusts a file that is more than weights, with a leading space; empty for other errors."""
    if "Weights only load failed" not in str(error) or "GLOBAL" not in str(error):
        return ""
    return " Reading it would run code that it contains; if you trust the file, add --trust_checkpoint."


def one_line(error: BaseException, limit: int = 160) -> str:
    """An exception as one short line."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    if "Weights only load failed" in text:  # a page of advice on pickles; only the reason matters
        reason = re.search(r"[Uu]nsupported (global: GLOBAL|GLOBAL|operand|class) \S+", text)
        text = reason.group(0) if reason else "not written by torch.save"
    text = text if len(text) <= limit else text[:limit].rstrip() + " ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file, or of a folder's files with their names."""
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        if path.is_dir():
            digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


# --- training step ---------------------------------------------------------------------------------


def training_step(path: Path, by_name: bool = True) -> int | None:
    """The training step of a checkpoint: what the file says, else the last number in its name.

    Args:
        path: a file, or a folder as Hugging Face's Trainer writes it.
        by_name: whether the name may give it where the file does not. A published model's name gives hours of
            speech rather than steps.

    Returns:
        The step (of some trainers: the epoch), or None if neither tells it.
    """
    found = None
    if path.is_dir():
        with contextlib.suppress(OSError, ValueError, AttributeError):
            state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            found = _whole(state.get("global_step"))
    else:
        with contextlib.suppress(MIError):
            found = step_in_content(read_checkpoint(path))
    return step_in_name(path) if found is None and by_name else found


def step_in_name(path: Path) -> int | None:
    """The last number that stands for itself in the name of a checkpoint, or of its folder.

    Example:
        >>> [step_in_name(Path(p)) for p in ("hubert-000960.pt", "checkpoint-5000/model.safetensors", "e/400k.pt")]
        [960, 5000, 400000]
        >>> [step_in_name(Path(p)) for p in ("ckpt_epoch_3.pt", "hubert_base_ls960.pt", "epoch=2-loss=0.35.ckpt")]
        [3, None, 2]
    """
    stem = path.stem if path.suffix and not path.suffix[1:].isdigit() else path.name
    if stem in _WEIGHT_FILES:
        stem = path.absolute().parent.name
    numbers = _STEP_IN_NAME.findall(stem)
    return int(numbers[-1][0]) * (1000 if numbers[-1][1] else 1) if numbers else None


def step_in_content(content: Any) -> int | None:
    """The training step that a checkpoint's content tells: fairseq's, Lightning's, s3prl's own and the like.

    Example:
        >>> step_in_content({"optimizer_history": [{"num_updates": 10}, {"num_updates": 70}], "epoch": 3})
        70
        >>> step_in_content({"Step": 60, "model": {}})
        60
    """
    content = _mapping(content)
    history = content.get("optimizer_history")
    last = _mapping(history[-1]) if isinstance(history, list) and history else {}
    extra = _mapping(content.get("extra_state"))
    # fairseq's iterator counts from the start of an epoch; only its num_updates is a step
    places = [(place, ("num_updates",)) for place in (last, extra, _mapping(extra.get("train_iterator")))]
    for place, keys in (*places, (content, _STEP_KEYS)):
        known = {str(k).lower(): v for k, v in place.items()}
        for key in keys:
            if (found := _whole(known.get(key))) is not None:
                return found
    return None


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _whole(value: Any) -> int | None:
    """A step as an int; a tensor or numpy number of one element too."""
    with contextlib.suppress(AttributeError, RuntimeError, ValueError):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        return None
    return int(value)


# --- what a checkpoint looks like ------------------------------------------------------------------


_CONVERTED = ("task_cfg", "model_cfg", "model_weight")
_LAYOUTS: tuple[tuple[tuple[str, ...], str, str | None], ...] = (
    # keys that the file has (key.subkey; with ! that are set to something), what it looks like, upstream that reads it
    (("Featurizer",), "a states-*.ckpt of a downstream run (config key featurizer reads it)", None),
    (("Downstream",), "a states-*.ckpt of a downstream run (config key featurizer reads it)", None),
    (
        (*_CONVERTED, "dictionaries_symbols", "model_cfg.label_rate_ratios"),
        "a converted MR-HuBERT file",
        "multires_hubert_local",
    ),
    ((*_CONVERTED, "dictionaries_symbols"), "a converted HuBERT file", "hubert_local"),
    ((*_CONVERTED, "model_cfg.infonce", "model_cfg.vq_type!"), "a converted wav2vec file", "vq_wav2vec_custom"),
    ((*_CONVERTED, "model_cfg.infonce"), "a converted wav2vec file", "wav2vec_local"),
    ((*_CONVERTED, "model_weight._ema"), "a converted data2vec file", "data2vec_local"),
    (_CONVERTED, "a converted wav2vec 2.0 file", "wav2vec2_local"),
    (("model", "cfg.conv_feature_layers", "cfg.relative_position_embedding!"), "a WavLM file", "wavlm_local"),
    (("model", "cfg.conv_feature_layers"), "a UniSpeech-SAT file", "unispeech_sat_local"),
    (("config", "model", "paras.kernel_size"), "an NPC file", "npc_local"),
    (("config", "model", "paras.vq!"), "a VQ-APC file", "apc_local"),
    (("config", "model"), "an APC file", "apc_local"),
    (("Transformer",), "a Mockingjay, TERA or AALBERT file", "tera_local"),
    (("Distiller",), "a DistilHuBERT file", "distiller_local"),
    (("weights",), "a CPC file", "cpc_local"),
    (("0.0.weight_ih_l0",), "a Co-training file", "cotraining"),
)
"""Layouts by their keys; the first that fits decides."""


def model_type(folder: Path) -> Any:
    """What the config.json of a Hugging Face model calls itself.

    Raises:
        MIError: it cannot be read, or is no config.
    """
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise MIError(
            f"{folder / 'config.json'}: not the config of a Hugging Face model ({one_line(error)})."
        ) from error


def describe_checkpoint(path: Path) -> tuple[str, str | None]:
    """Say what a checkpoint, a file or folder, looks like by its keys.

    Returns:
        A description, and the upstream that probably reads it (None if none is known).

    Raises:
        MIError: a file that torch cannot read.
    """
    if path.is_dir():
        if not (path / "config.json").is_file():
            return "a folder without config.json", None
        kind = model_type(path)
        own = f"hf_{kind}_custom" if kind in ("hubert", "wav2vec2") else None
        return f"a Hugging Face model of type {kind!r}", own or ("hf" if kind in SPEECH_ENCODERS else None)
    content = read_checkpoint(path)
    if not isinstance(content, dict):
        return f"a saved {type(content).__name__}, not a dict", None
    cfg = _mapping(plain(content.get("cfg")))
    paras = _mapping(_mapping(_mapping(content.get("config")).get("model")).get("paras"))
    keys = set(map(str, content))
    for name, part in [("cfg", cfg), ("paras", paras), *((k, _mapping(content.get(k))) for k in _CONVERTED)]:
        keys |= {f"{name}.{k}" for k in part} | {
            f"{name}.{k}!" for k, v in part.items() if v is not None and v is not False and v != "none"
        }
    for needed, looks, upstream in _LAYOUTS:
        if keys.issuperset(needed):
            return looks, upstream
    if {"cfg", "model"} <= keys:
        return _describe_fairseq(_mapping(cfg.get("model")).get("_name"))
    if content and all(hasattr(value, "shape") for value in content.values()):
        return "a bare state dict, without its model's config", None
    return f"a dict with the keys {', '.join(sorted(map(str, content))[:6])}", None


def _describe_fairseq(kind: Any) -> tuple[str, str | None]:
    if kind == "dinosr":
        return "a DinoSR file", "dinosr"
    if isinstance(kind, str) and "pruner" in kind:
        return "a LightHuBERT file", "lighthubert_local"
    return (
        f"a raw fairseq file{f' of model {kind}' if kind else ''}; convert it first (python -m "
        "s3prl.upstream.hubert.convert and the like, with fairseq installed)"
    ), None


def advice(path: Path, name: str = "") -> str:
    """What a checkpoint looks like, as a sentence with a leading space; empty if nothing can be said.

    Args:
        path: the checkpoint.
        name: the upstream that it was given to; it is not proposed again.
    """
    if not path.exists():
        return ""
    try:
        looks, upstream = describe_checkpoint(path)
    except MIError as error:
        return f" C{str(error)[1:]}"
    if upstream is not None and upstream == name:
        return f" The checkpoint looks like {looks}, as it should: it is damaged or of another version."
    return f" The checkpoint looks like {looks}." + (f" Try -u {upstream}." if upstream else "")


def existing_file(name: str, ckpt: str) -> Path:
    """The file that `-k` names for the upstream `-u name`.

    Raises:
        MIError: no such file, or a folder.
    """
    path = Path(ckpt)
    if not path.exists():
        raise MIError(f"upstream {name!r}: checkpoint -k {ckpt!r} does not exist.")
    if path.is_dir():
        raise MIError(f"upstream {name!r}: -k {ckpt!r} is a folder, but a file is needed.{advice(path)}")
    return path


def file_or_download(name: str, ckpt: str | None, refresh: bool) -> Path:
    """The file behind `-k`; a URL is downloaded to s3prl's cache.

    Raises:
        MIError: no checkpoint given, or no such file.
    """
    if ckpt is None:
        raise MIError(f"upstream {name!r} needs a checkpoint: -k CHECKPOINT.")
    if ckpt.startswith(("http://", "https://")):
        from s3prl.util.download import _urls_to_filepaths

        return Path(_urls_to_filepaths(ckpt, refresh=refresh))
    return existing_file(name, ckpt)


def hugging_face_folder(name: str, ckpt: str, needed: Sequence[str]) -> Path | None:
    """The folder of a Hugging Face model that `-k` names for the upstream `-u name`; None: a model id (or a URL).

    Raises:
        MIError: no such folder, a file, or a folder without one of the `needed` files.
    """
    path = Path(ckpt)
    if not path.exists():
        if (path.is_absolute() or ckpt.startswith(".") or ckpt.count("/") > 1) and "://" not in ckpt:
            raise MIError(f"upstream {name!r}: folder -k {ckpt!r} does not exist.")
        return None
    if not path.is_dir():
        raise MIError(f"upstream {name!r}: -k {ckpt!r} is a file, but a folder or a model id is needed.{advice(path)}")
    for file in needed:
        if not (path / file).is_file():
            raise MIError(f"upstream {name!r}: folder {ckpt!r} has no {file}; save the model there again.")
    return path
