"""The policy: the vision-language model that is run or trained."""
