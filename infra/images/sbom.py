"""The SBOM of each image: the crates that are linked into its program, and the Debian packages of its base.

    sbom.py FOLDER IMAGE…

The crates are those of `cargo tree` for the program's package alone, as `theater images` builds it with the features that
it says in a label, without what only builds or expands code; `cargo metadata` knows their licences, Cargo.lock their
checksums. Cargo's own data of a workspace would not do: they join the features of all its members, and give the gateway
a database's driver.
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


def said(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def tree(package, features):
    """(depth, name, version) of everything linked, as cargo would build the package by itself; seen ones without their own."""
    options = ["--locked", "-p", package, "--features", features, "-e", "normal,no-proc-macro"]
    lines = said("cargo", "tree", *options, "--prefix", "depth", "-f", " {p}")
    for line in lines.splitlines():
        depth, name, version, *_ = line.split()
        yield int(depth), name, version.removeprefix("v")


class Crates:
    def __init__(self):
        metadata = json.loads(said("cargo", "metadata", "--locked", "--all-features", "--format-version", "1"))
        self.licences = {(it["name"], it["version"]): it["license"] for it in metadata["packages"]}
        lock = tomllib.loads(Path("Cargo.lock").read_text())
        self.checksums = {(it["name"], it["version"]): it.get("checksum") for it in lock["package"]}

    def component(self, name, version):
        licence, checksum = self.licences[name, version], self.checksums[name, version]
        # Ours have no checksum, and come from nowhere else.
        return Component(
            type=ComponentType.LIBRARY,
            name=name,
            version=version,
            bom_ref=f"crate:{name}@{version}",
            # Cargo's old notation has a slash for OR.
            licenses=[LicenseFactory().make_from_string(licence.replace("/", " OR "))] if licence else [],
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=checksum)] if checksum else [],
            purl=PackageURL("cargo", name=name, version=version) if checksum else None,
        )


def add_crates(bom, program, features, crates):
    """The crates, and which of them needs which."""
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
        bom.register_dependency(component, [components[it] for it in needs.get(crate, ())])
    bom.register_dependency(bom.metadata.component, [components[root]])
    return len(components)


def add_packages(bom, image):
    """What Debian's own list in the image says."""
    fields = "${Package} ${Version} ${Architecture}\\n"
    options = ["--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "--entrypoint", "dpkg-query"]
    lines = said("docker", "run", *options, image, "-W", "-f", fields).splitlines()
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
    features = said("docker", "image", "inspect", "-f", '{{index .Config.Labels "theater.features"}}', image).strip()
    linked = add_crates(bom, program, features, crates)
    packages = add_packages(bom, image)
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if wrong:
        sys.exit(f"the SBOM of {image} is none: {wrong}")
    (folder / f"{program}.cdx.json").write_text(text)
    print(f"{program}: {linked} crates, {packages} Debian packages")


def main():
    folder = Path(sys.argv[1])
    crates = Crates()
    for image in sys.argv[2:]:
        write(folder, image, crates)


main()
