"""Check that a built wheel holds every file that git tracks in the package, and nothing else."""

import subprocess
import sys
import zipfile

tracked = set(
    subprocess.run(
        ["git", "ls-files", "xr_daisi"], check=True, capture_output=True, text=True
    ).stdout.split()
)
with zipfile.ZipFile(sys.argv[1]) as wheel:
    packed = {name for name in wheel.namelist() if name.startswith("xr_daisi/")}

missing, foreign = sorted(tracked - packed), sorted(packed - tracked)
if missing or foreign:
    sys.exit(f"missing in the wheel: {missing}; in the wheel but not tracked: {foreign}")
print(f"{len(packed)} files, {sum(name.startswith('xr_daisi/data/') for name in packed)} of data")
