"""Checks what cluster/ ships beside the units: YAML that parses, references that lead somewhere, and
templates whose blocks close. Stands in for docker and helm where these are not installed."""

import glob
import re
import sys

import yaml

problems = []


def problem(path, text):
    problems.append(f"{path}: {text}")


def load(path):
    try:
        with open(path, encoding="utf-8") as file:
            return yaml.safe_load(file)
    except yaml.YAMLError as error:
        problem(path, f"is not YAML: {error}")
        return {}


def check_compose(path):
    compose = load(path)
    services = compose.get("services", {})
    volumes = compose.get("volumes", {})
    for name, service in services.items():
        if "image" not in service:
            problem(path, f"service {name} has no image")
        for other in service.get("depends_on", []):
            if other not in services:
                problem(path, f"service {name} depends on {other}, which there is not")
        for mount in service.get("volumes", []):
            volume = mount.split(":")[0]
            if not volume.startswith((".", "/")) and volume not in volumes:
                problem(path, f"service {name} mounts {volume}, which there is not")
        for variable, value in (service.get("environment") or {}).items():
            for host in re.findall(r"([a-z0-9-]+):\d+", str(value)):
                if host not in services and variable.startswith("QUORATE_END"):
                    problem(path, f"service {name}: {variable} names {host}, no service")
    return len(services)


def check_chart(folder):
    chart = load(f"{folder}/Chart.yaml")
    values = load(f"{folder}/values.yaml")
    for key in ("apiVersion", "name", "version"):
        if key not in chart:
            problem(f"{folder}/Chart.yaml", f"has no {key}")
    defined, included = set(), set()
    templates = sorted(glob.glob(f"{folder}/templates/*"))
    for path in templates:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        if text.count("{{") != text.count("}}"):
            problem(path, "has an action that does not close")
        depth = 0
        for action in re.findall(r"{{-?\s*(.*?)\s*-?}}", text, re.S):
            word = action.split()[0] if action else ""
            depth += word in ("if", "range", "with", "define", "block")
            depth -= word == "end"
            if depth < 0:
                problem(path, "has an end without a beginning")
                break
            if word == "define":
                defined.add(action.split('"')[1])
            included.update(re.findall(r'include "([^"]+)"', action))
            for reference in re.findall(r"\.Values((?:\.\w+)+)", action):
                value = values
                for step in reference.strip(".").split("."):
                    if not isinstance(value, dict) or step not in value:
                        problem(path, f".Values{reference} is not in values.yaml")
                        break
                    value = value[step]
        if depth > 0:
            problem(path, "has a block without an end")
        if path.endswith(".yaml"):
            # Without its actions a template is nearly YAML: lines that hold nothing else go, other
            # actions become a word.
            plain = re.sub(r"(?m)^\s*{{-?.*?-?}}\s*$\n?", "", text, flags=re.S)
            plain = re.sub(r"{{.*?}}", "x", plain, flags=re.S)
            try:
                documents = [d for d in yaml.safe_load_all(plain) if d]
            except yaml.YAMLError as error:
                problem(path, f"is not YAML around its actions: {error}")
                continue
            for document in documents:
                for key in ("apiVersion", "kind", "metadata"):
                    if key not in document:
                        problem(path, f"an object has no {key}")
    for name in sorted(included - defined):
        problem(folder, f"includes {name}, which is not defined")
    return len(templates)


services = check_compose("cluster/compose/compose.yaml")
templates = check_chart("cluster/helm/quorate")
for text in problems:
    print(f"error: {text}", file=sys.stderr)
if problems:
    sys.exit(1)
print(f"compose file: {services} services; chart: {templates} templates")
