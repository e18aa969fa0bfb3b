"""What charts correspond to in the papers, by what they show: numbers of figures differ between versions of a paper."""

SLICE_TABLE = "SLICE, Table 1: AP, FP and forgetting of each method"
GAIN_CURVES = "GainLoRA, AP of each method after each task; its AP is FP here"
GAIN_GATES = "GainLoRA, the new gate's output on prompts of old tasks and of the new one; here the last row"
GAIN_SWEPT = (
    "GainLoRA, forms of f, width and depth of the gate, rank of the branches; here each value of a sweep is a method"
)
