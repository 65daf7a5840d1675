from setuptools import find_packages, setup

# The zoo is data for --model NAME: loaded by path, shipped as nnlo/zoo, edited in models/.
setup(
    packages=[*find_packages(include=["nnlo", "nnlo.*"]), "nnlo.zoo"],
    package_dir={"nnlo.zoo": "models"},
)
