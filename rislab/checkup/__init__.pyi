from .findings import Finding as Finding
from .findings import Findings as Findings
from .loop_watch import watch as watch
from .probes import probe as probe
from .script import run_script as run_script
