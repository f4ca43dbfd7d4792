"""The policy: the vision-language model that is run or trained.

    policy = load_policy("nano")

`load` finds and loads a model, `safety` refuses folders that could do harm, `chat` writes the chat format.
"""

from anomalyr1.policy.load import BUNDLED, Policy, find_folder, licence_of, limits_of, load_policy
from anomalyr1.policy.safety import check_folder, refuse_code

__all__ = [
    "BUNDLED",
    "Policy",
    "check_folder",
    "find_folder",
    "licence_of",
    "limits_of",
    "load_policy",
    "refuse_code",
]
