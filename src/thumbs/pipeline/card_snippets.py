"""How to load an exported model, as Python that runs in the folder where its card lies."""

from __future__ import annotations

from thumbs.models.base_identity import BaseIdentity

_POLICY = """\
from transformers import AutoTokenizer
{imports}

folder = "."  # where this card lies
tokenizer = AutoTokenizer.from_pretrained(folder)
{model}
chat = [{system}{{"role": "user", "content": "Hello!"}}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
tokens = model.generate(**inputs, max_new_tokens=64)
print(tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
"""

_REWARD = """\
import torch
from transformers import AutoTokenizer
{imports}

folder = "."  # where this card lies
tokenizer = AutoTokenizer.from_pretrained(folder)
{model}
chats = [
    [{system}{{"role": "user", "content": "Hello!"}}, {{"role": "assistant", "content": reply}}]
    for reply in ("Hi, how can I help?", "No.")
]
texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
end = {end!r}  # the score is read here, at the end of the last reply
texts = [text[: text.rindex(end) + len(end)] for text in texts]
inputs = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
with torch.no_grad():
    scores = model(**inputs).logits[:, 0]  # one number for each chat; the higher, the better
print(scores.tolist())
"""

_LABELS = ", num_labels=1, pad_token_id=tokenizer.pad_token_id"


def snippet(base: BaseIdentity, *, merged: bool, scores: bool, system: str | None, end: str) -> str:
    """The Python of a card. end: the text of the token that ends a reply."""
    task = "SequenceClassification" if scores else "CausalLM"
    labels = _LABELS if scores else ""
    if merged:
        imports = f"from transformers import AutoModelFor{task}"
        model = f"model = AutoModelFor{task}.from_pretrained(folder)"
    elif base.kind in ("hub", "folder"):
        imports = f"from peft import AutoPeftModelFor{task}"
        model = f"model = AutoPeftModelFor{task}.from_pretrained(folder{labels})"
    else:
        imports = f"from peft import PeftModel\nfrom transformers import AutoModelFor{task}"
        model = (
            'base = "BASE"  # what `thumbs export RUN BASE --stage base --merge` wrote\n'
            f"model = AutoModelFor{task}.from_pretrained(base{labels})\n"
            "model = PeftModel.from_pretrained(model, folder)"
        )
    said = f'{{"role": "system", "content": {system!r}}}, ' if system else ""
    return (_REWARD if scores else _POLICY).format(imports=imports, model=model, system=said, end=end)
