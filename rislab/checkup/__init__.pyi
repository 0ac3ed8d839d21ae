from .findings import Finding as Finding
from .findings import Findings as Findings
from .findings import assert_no_faults as assert_no_faults
from .loop_watch import watch as watch
from .probes.suite import probe as probe
from .rule import Rule as Rule
from .rules import RULES as RULES
from .script import run_script as run_script
