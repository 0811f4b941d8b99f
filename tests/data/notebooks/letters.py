"""A script in percent cells: what it does is said here."""
# %%
import json
import sys
from pathlib import Path

WORDS = ["one", "two", "three"]  # what is counted
REPEAT = 2


# %%
def repeated(words, times):
    return [word for word in words for _ in range(times)]


# %% [markdown]
# # Count letters

# %%
letters = {}
for word in repeated(WORDS, REPEAT):
    for letter in word:
        letters[letter] = letters.get(letter, 0) + 1
Path("letters.json").write_text(json.dumps(letters, sort_keys=True))

# %% [markdown]
# # Say it

# %%
found = json.loads(Path("letters.json").read_text())
print("most common:", max(sorted(found), key=found.get))
print(sys.version_info >= (3, 11))
