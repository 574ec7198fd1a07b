"""What the package says when it fails, in one line: the reason, and what to do.

The texts are those of vbench 0.1.5 with the pins of `pins`, as they were seen; what is not among them is quoted.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from flowmap.vbench.environment import INSTALL

_KNOWN: Sequence[tuple[str, str, str]] = (
    (
        r"No module named '(?:detectron2|lvis|fvcore)",
        "its detector needs detectron2, which no package index has",
        f"get its source, and {INSTALL} --detectron2 FOLDER",
    ),
    (
        r"No module named 'pkg_resources'|cannot import name 'packaging' from 'pkg_resources'",
        "the environment's setuptools is not one of 77 to 80",
        f"make it anew: {INSTALL}",
    ),
    (
        r"No module named 'vbench2_beta_i2v\.third_party",
        "the package lacks co-tracker's code, which its repository has",
        "name a clone of Vchitect/VBench: --repository FOLDER",
    ),
    (
        r"No module named '(?:dreamsim|peft)|apply_chunking_to_forward|numpy\.lib\.function_base|cache_dir",
        "the environment has other versions of its libraries than the pins",
        f"make it anew: {INSTALL}",
    ),
    (r"No module named '([\w.]+)'", "the environment lacks {0}", f"make it for this dimension: {INSTALL}"),
    (
        r"torchvision::\w+ does not exist|torchvision has no kernels|Couldn't load custom C\+\+ ops",
        "torch and torchvision are of different builds, and its detector needs torchvision's kernels",
        "install both from the same place into the environment",
    ),
    (
        r"PytorchStreamReader failed|unexpected EOF|data was truncated|Missing key\(s\) in state_dict|invalid load key",
        "a file of weights is cut off, damaged or another one",
        "delete it and fetch it again: flowmap vbench --install says which it is, and from where",
    ),
    (
        r"Weights only load failed|WeightsUnpickler",
        "its file of weights holds more than tensors, which torch 2.6 and later do not load",
        "if you trust the file, set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1",
    ),
    (
        r"'(?:wget|unzip|git)'.*returned non-zero|No such file or directory: '(?:wget|unzip|git)'|URLError|HTTP Error",
        "its weights could not be fetched",
        "fetch them yourself: flowmap vbench --install says which, and from where",
    ),
    (
        r"Can't load tokenizer for '([\w./-]+)'|couldn't connect to 'https?://",
        "a tokenizer of the hub ({0}) is not in the cache",
        "fetch it where there is a network: huggingface-cli download bert-base-uncased",
    ),
    (
        r"No such file or directory: '([^']*\.(?:pth|pt|gz))'",
        "the file of weights {0} is not there",
        "put it there: flowmap vbench --install says where it is from",
    ),
    (r"EOFError", "CLIP's file is no TorchScript archive", "take OpenAI's own file, not a plain state dict"),
    (r"CUDA out of memory|OutOfMemoryError", "the device has not enough memory", "free it, or --device cpu"),
    (r"Torch not compiled with CUDA|No CUDA GPUs|CUDA driver", "this torch sees no GPU", "--device cpu"),
    (r"ZeroDivisionError", "the package found nothing that it could score in any clip", "look at the clips"),
    (
        r"No such file or directory: '(vbench2_beta_i2v/data/[^']*)'",
        "the image {0} is not there",
        "--repository names a clone of Vchitect/VBench whose data/crop was downloaded",
    ),
)


def explained(dimension: str, code: int, said: str, log: str) -> str:
    """One line on a scorer that ended with `code`: `said` is its own "Type: text", `log` the file of all its words."""
    where = f" (all of it: {log})" if log else ""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        memory = ", as a machine does that has no memory left" if name == "SIGKILL" else ""
        return (
            f"{dimension}: its scorer was ended by {name}{memory}; nothing else is lost, run the command again{where}"
        )
    for pattern, reason, remedy in _KNOWN:
        if found := re.search(pattern, said):
            groups = [group or "" for group in found.groups()] or [""]
            return f"{dimension}: {reason.format(*groups)}; {remedy}{where}"
    words = " ".join(said.split()) or f"its scorer ended with {code} and said nothing"
    return f"{dimension}: VBench's package failed: {words[:300]}{where}"
