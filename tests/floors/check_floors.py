#!/usr/bin/env python3
"""Reads every #include and fails on one that points up, sideways, or to a folder without a floor.

usage: check_floors.py SOURCE FLOORS   where FLOORS is the list that CMake wrote (floor, folder).
"""
import os
import re
import sys

source, floors_file = sys.argv[1], sys.argv[2]
floor = {}
for line in open(floors_file):
    if line.strip():
        number, folder = line.split()
        floor[folder] = tuple(int(n) for n in number.split("."))


def below(upper, lower):
    """May folder `upper` include from `lower`? Floors such as 7.1 order folders of one trade; 7.x of different trades do not mix."""
    if upper == lower or lower.startswith(upper + "/") and floor[lower][0] == floor[upper][0] and upper == "accel/tcg/host":
        return True
    a, b = floor[upper], floor[lower]
    if a[0] != b[0]:
        return a[0] > b[0]
    if len(a) == 2 and len(b) == 2 and upper.split("/")[0] == lower.split("/")[0]:
        return a[1] > b[1]
    return False


bad = 0
for top in ("src", "accel", "hw", "block", "net", "migration", "monitor"):
    for path, _, files in os.walk(os.path.join(source, top)):
        folder = os.path.relpath(path, source)
        for name in files:
            if not name.endswith((".cpp", ".h", ".S", ".inc")):
                continue
            file = os.path.join(folder, name)
            if folder not in floor:
                print(f"{file}: folder {folder} has no floor in CMakeLists.txt")
                bad += 1
                continue
            for number, line in enumerate(open(os.path.join(source, file), errors="replace"), 1):
                m = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
                if not m:
                    continue
                target = os.path.dirname(m.group(1))
                if target not in floor:
                    print(f"{file}:{number}: {m.group(1)}: include by path from the root, from a folder with a floor")
                    bad += 1
                elif not below(folder, target):
                    print(f"{file}:{number}: {m.group(1)}: {folder} (floor {'.'.join(map(str, floor[folder]))}) may not look at {target} "
                          f"(floor {'.'.join(map(str, floor[target]))})")
                    bad += 1
sys.exit(1 if bad else 0)
