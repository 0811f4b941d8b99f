"""What preflight asks a host, handed to its Python on the command line; it writes nothing there.

The time is read last, since the manager compares it with its own when the
answer arrives. Nothing imports this module.
"""

import glob
import json
import os
import shutil
import subprocess
import sys
import time

home = os.path.expanduser("~")
wenv = os.environ.get("AGILAB_WENV") or os.path.join(home, "wenv")
place = wenv
while not os.path.exists(place):
    place = os.path.dirname(place)
disk = os.statvfs(place)
programs = os.pathsep.join(
    [os.environ.get("PATH", os.defpath), os.path.join(home, ".local", "bin"), os.path.join(home, ".cargo", "bin")]
)
uv, uv_version = shutil.which("uv", path=programs) or "", ""
if uv:
    try:
        uv_version = subprocess.run([uv, "--version"], capture_output=True, text=True, timeout=5).stdout.split()[1]
    except (OSError, subprocess.SubprocessError, IndexError):
        uv = ""
said = {
    "python": sys.version.split()[0].rstrip("+"),
    "executable": sys.executable,
    "platform": sys.platform + "-" + os.uname().machine,
    "wenv": wenv,
    "place": place,
    "writable": os.access(place, os.W_OK),
    "free_bytes": disk.f_bavail * disk.f_frsize,
    "uv": uv,
    "uv_version": uv_version,
    "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
    "resources": os.environ.get("AGILAB_RESOURCES"),
    "gpus": len(glob.glob("/dev/nvidia[0-9]*")),
    "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    "time": time.time(),
}
print(json.dumps(said), flush=True)
