"""A long run that can be interrupted: every finished item is kept in build/long/NAME with the binary and commit it was begun with, and the
next start goes on where the last one ended. A finished run appends its line to docs/long-runs.md; --fresh forgets what was kept. With
LONG_SECONDS=N no item begins later than that: the rest is for the next start."""
import json
import os
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests/functional"))


def _git(*words):
    return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=True).stdout.strip()


class LongRun:
    def __init__(self, name, programs=("vmm",)):
        self.name, self.folder = name, os.path.join(ROOT, "build/long", name)
        self.kept, self.binary = os.path.join(self.folder, "state.json"), os.path.join(self.folder, "vmm")
        fresh = "--fresh" in sys.argv
        self.state = json.load(open(self.kept)) if os.path.exists(self.kept) and not fresh else {"finished": True}
        if self.state["finished"]:
            os.makedirs(self.folder, exist_ok=True)
            for program in programs:
                shutil.copy2(os.path.join(ROOT, "build/release", program), os.path.join(self.folder, program))
            changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs", ":!tests")
            self.state = {"finished": False, "commit": _git("rev-parse", "--short", "HEAD") + ("+changes" if changed else ""), "items": {}, "seconds": 0}
            self._keep()
        else:
            print(f"going on with the run of commit {self.state['commit']}: {len(self.state['items'])} items are kept (--fresh forgets them)", flush=True)
        os.environ["VMM_BINARY"] = os.environ["VMM"] = self.binary  # before guest.py is imported
        self.failed, self.left = {}, 0
        self.end = time.monotonic() + float(os.environ.get("LONG_SECONDS", "inf"))

    def _keep(self):
        with open(self.kept + ".new", "w") as f:
            json.dump(self.state, f, indent=1)
        os.replace(self.kept + ".new", self.kept)

    def item(self, name, work):
        """Runs work() unless it succeeded before; what it returns is kept beside the item's name."""
        if name in self.state["items"]:
            return
        start = time.monotonic()
        if start > self.end:
            self.left += 1
            return
        try:
            figure, trouble = work(), None
        except Exception as error:  # a Failed, or a broken test: either way this item did not pass
            trouble = f"{type(error).__name__}: {error}"
        took = time.monotonic() - start
        self.state["seconds"] += took
        if trouble is None:
            self.state["items"][name] = figure
            print(f"{name}: {took:.1f} s", flush=True)
        else:
            self.failed[name] = trouble
            print(f"{name}: FAILED {trouble}", flush=True)
        self._keep()

    def finish(self, figures, whole=True):
        """Writes the line and ends with the run's status; one that is not whole yet goes on with the next start."""
        if (self.left or not whole) and not self.failed:
            print(f"{figures}; {self.left} items left" if self.left else figures)
            sys.exit(0)
        if self.failed:
            figures += "; failed: " + "; ".join(f"{name} ({trouble.splitlines()[0][:160]})" for name, trouble in self.failed.items())
        with open(os.path.join(ROOT, "docs/long-runs.md"), "a") as f:
            f.write(f"| {self.name} | {self.state['commit']} | {time.strftime('%Y-%m-%d')} | {self.state['seconds'] / 60:.1f} | {figures} |\n")
        self.state["finished"] = not self.failed
        self._keep()
        print(figures)
        sys.exit(1 if self.failed else 0)
