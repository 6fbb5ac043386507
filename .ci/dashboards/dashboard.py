"""A dashboard's panels and their queries, for the checks."""

import json
from pathlib import Path


class Dashboard:
    def __init__(self, file):
        self.name = Path(file).stem
        self.json = json.loads(Path(file).read_text())
        self.variables = {variable["name"]: variable for variable in self.json["templating"]["list"]}
        self.panels = [panel for panel in self.json["panels"] if panel["type"] != "row"]

    def queries(self):
        """(panel's title, query)"""
        return [(panel["title"], target["expr"]) for panel in self.panels for target in panel["targets"]]
