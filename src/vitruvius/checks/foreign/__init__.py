"""Is somebody else's model right? The same probes for any torch module, a Hugging Face folder, or a factory.

`check_module` runs in this process; `check_foreign` loads what `hf:DIR` or `module:path:factory` names and probes it
in a process of its own, which may crash, hang or run out of memory; `check_callable` takes any function of token ids.
"""

from vitruvius.checks.foreign.isolation import TIMEOUT, check_foreign
from vitruvius.checks.foreign.loading import is_foreign
from vitruvius.checks.foreign.plain import check_callable
from vitruvius.checks.foreign.probes import FOREIGN_PROBES, check_module

__all__ = ["FOREIGN_PROBES", "TIMEOUT", "check_callable", "check_foreign", "check_module", "is_foreign"]
