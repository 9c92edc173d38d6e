"Package metadata for pip, read from settings.ini"

from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

ini = ConfigParser(delimiters=["="], interpolation=None)
ini.read(Path(__file__).parent / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]

readme = Path(__file__).parent / "README.md"
extras = {
    key.removesuffix("_requirements"): value.split() for key, value in cfg.items() if key.endswith("_requirements")
}

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else cfg["description"],
    long_description_content_type="text/markdown",
    author=cfg["author"],
    license="Apache-2.0",
    keywords=cfg["keywords"].split(),
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Physics",
    ],
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    packages=find_packages(include=["wan_well", "wan_well.*"]),
    package_data={"wan_well": ["assets/**", "configs/*.yaml"]},
    entry_points={"console_scripts": cfg["console_scripts"].split(), "nbdev": ["wan_well=wan_well._modidx:d"]},
    zip_safe=False,
)
