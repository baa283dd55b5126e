"""The environment variables of a visitor's job: an allow-list, without tokens.

A job loads whatever base a visitor names, so it must not get the owner's login. A private studio,
which only its owner reaches, passes on the owner's login of the Hugging Face Hub and nothing else.
Every other studio's jobs have no login and never ask the Hub for a model: the models that the owner
lists (`nora-studio ui --models`) are in the Hub's cache already, so nothing that a
visitor does is downloaded onto the owner's disk.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from nora_studio.app.server.job import QUIET_THREADS

NAMES = frozenset(
    {
        # Where programs, libraries and this user's settings are.
        "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP",
        "PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONUTF8", "PYTHONIOENCODING",
        "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH", "LD_PRELOAD", "SYSTEMROOT",
        # How the network is reached.
        "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
        "http_proxy", "https_proxy", "all_proxy", "no_proxy",
        "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
        # Where models are cached, and how they are fetched; no login.
        "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE",
        "HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_DISABLE_XET",
        "HF_HUB_DISABLE_TELEMETRY", "TRANSFORMERS_OFFLINE", "XDG_CACHE_HOME", "TORCH_HOME",
        "NORA_STUDIO_CACHE", "MPLCONFIGDIR", "TOKENIZERS_PARALLELISM", "ACCELERATE_USE_CPU",
    }
)  # fmt: skip
PREFIXES = (
    "LC_", "CUDA_", "NVIDIA_", "NCCL_", "HIP_", "HSA_", "ROCR_", "ROCM_", "OMP_", "GOMP_", "KMP_",
    "MKL_", "OPENBLAS_", "PYTORCH_", "TORCHINDUCTOR_", "TRITON_",
)  # fmt: skip
OWNERS_LOGIN = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"})
NO_LOGIN = ".no-login"
"""A folder in the studio's data folder that is never created."""


def job_environment(
    home: Path, is_private: bool = False, secret: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment of a process that works for a visitor.

    Args:
        home: The studio's data folder.
        is_private: Whether only the studio's owner reaches it; their Hub login is then passed on.
        secret: Variables that this visitor gave for this job alone, such as a Hub token.
    """
    allowed = {
        name: value
        for name, value in os.environ.items()
        if name in NAMES
        or name.startswith(PREFIXES)
        or (is_private and not secret and name in OWNERS_LOGIN)
    }
    if not is_private or secret:
        no_login = str((home / NO_LOGIN).absolute())
        # Hides the stored login of `hf auth login`, and ~/.netrc, which requests reads.
        allowed |= {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_TOKEN_PATH": f"{no_login}/token"}
        allowed |= {"NETRC": f"{no_login}/netrc"}
    if not is_private and not secret:
        allowed |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return QUIET_THREADS | allowed | dict(secret or {})
