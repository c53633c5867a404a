import torch, pytest
from bench import classes, texts, tiny_llama
def test_q(texts):
    b = texts()
    out = {}
    for precision in ("fp32", "bf16"):
        m = b.adapt("qlora")
        try:
            out[precision] = b.train("qlora", m, epochs=2, learning_rate=1e-2, precision=precision)
        finally:
            w = [p for n, p in m.named_parameters() if p.__class__.__name__ == "Params4bit"]
            print(precision, len(w), w[0].dtype if w else None, w and w[0].data.dtype)
        print(out[precision][-3:])
        l, _ = b.reloaded("qlora", m)
        print(float((b.logits(l) - b.logits(m)).abs().max()))
