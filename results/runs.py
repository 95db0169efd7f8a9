"""What the tables of this folder share: a run of a script."""
import json
import subprocess
import sys
from pathlib import Path


def run_script(command, folder, env=None):
    """`python COMMAND` in a process of its own -> the records it leaves in FOLDER/metrics.jsonl. SystemExit with what it printed, where it fails."""
    done = subprocess.run([sys.executable, *command], text=True, capture_output=True, env=env)
    if done.returncode:
        raise SystemExit(f"python {' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
    return [json.loads(line) for line in open(Path(folder) / "metrics.jsonl")]
