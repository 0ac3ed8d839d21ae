from .catalogue import FAULTS as FAULTS
from .fault import Fault as Fault
from .fault import Symptom as Symptom
from .patching import patched as patched
