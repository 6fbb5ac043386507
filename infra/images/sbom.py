"""Writes the SBOM of each image: the crates that are linked into its program, and the Debian packages of its base.

    sbom.py FOLDER IMAGE…

`cargo tree` lists the crates of the program's package alone, with the features that the image's label names, as `theater images`
builds it, without build scripts and procedural macros. `cargo metadata` has their licences, Cargo.lock their checksums. The
dependencies in `cargo metadata` are no substitute: they combine the features of all members of the workspace, and would give the
gateway a database driver.
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

PACKAGES = {"theater": "theater-infra"}


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def tree(package, features):
    """(depth, name, version) of each linked crate, if cargo builds the package by itself. A repeated crate comes without its own."""
    options = ["--locked", "-p", package, "--features", features, "-e", "normal,no-proc-macro"]
    lines = output("cargo", "tree", *options, "--prefix", "depth", "-f", " {p}")
    for line in lines.splitlines():
        depth, name, version, *_ = line.split()
        yield int(depth), name, version.removeprefix("v")


class Crates:
    def __init__(self):
        metadata = json.loads(output("cargo", "metadata", "--locked", "--all-features", "--format-version", "1"))
        self.licences = {(package["name"], package["version"]): package["license"] for package in metadata["packages"]}
        lock = tomllib.loads(Path("Cargo.lock").read_text())
        self.checksums = {(package["name"], package["version"]): package.get("checksum") for package in lock["package"]}

    def component(self, name, version):
        licence, checksum = self.licences[name, version], self.checksums[name, version]
        # The crates of this workspace have no checksum, and are in no registry.
        return Component(
            type=ComponentType.LIBRARY,
            name=name,
            version=version,
            bom_ref=f"crate:{name}@{version}",
            # Cargo's old notation uses a slash for OR.
            licenses=[LicenseFactory().make_from_string(licence.replace("/", " OR "))] if licence else [],
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=checksum)] if checksum else [],
            purl=PackageURL("cargo", name=name, version=version) if checksum else None,
        )


def add_crates(bom, program, features, crates):
    """Adds the crates and their dependencies."""
    components, needs, path = {}, {}, []
    for depth, *crate in tree(PACKAGES.get(program, program), features):
        crate = tuple(crate)
        if crate not in components:
            components[crate] = crates.component(*crate)
        path[depth:] = [crate]
        if depth:
            needs.setdefault(path[depth - 1], set()).add(crate)
    root = next(iter(components))
    for crate, component in components.items():
        bom.components.add(component)
        bom.register_dependency(component, [components[needed] for needed in needs.get(crate, ())])
    bom.register_dependency(bom.metadata.component, [components[root]])
    return len(components)


def add_packages(bom, image):
    """Adds the packages that dpkg in the image lists."""
    fields = "${Package} ${Version} ${Architecture}\\n"
    options = ["--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "--entrypoint", "dpkg-query"]
    lines = output("docker", "run", *options, image, "-W", "-f", fields).splitlines()
    packages = []
    for name, version, architecture in map(str.split, lines):
        purl = PackageURL("deb", "debian", name, version, {"arch": architecture, "distro": "debian-13"})
        packages.append(Component(type=ComponentType.LIBRARY, name=name, version=version, bom_ref=f"deb:{name}:{architecture}", purl=purl))
    for package in packages:
        bom.components.add(package)
    bom.register_dependency(bom.metadata.component, packages)
    return len(packages)


def write(folder, image, crates):
    program, version = image.rpartition("/")[2].split(":")
    bom = Bom()
    bom.metadata.component = Component(type=ComponentType.CONTAINER, name=image.rpartition(":")[0], version=version, bom_ref=image)
    features = output("docker", "image", "inspect", "-f", '{{index .Config.Labels "theater.features"}}', image).strip()
    linked = add_crates(bom, program, features, crates)
    packages = add_packages(bom, image)
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    errors = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if errors:
        sys.exit(f"the SBOM of {image} is invalid: {errors}")
    (folder / f"{program}.cdx.json").write_text(text)
    print(f"{program}: {linked} crates, {packages} Debian packages")


def main():
    folder = Path(sys.argv[1])
    crates = Crates()
    for image in sys.argv[2:]:
        write(folder, image, crates)


main()
