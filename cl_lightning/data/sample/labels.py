"""Sample tasks answered by a label: Chinese stance, monetary policy stance, review sentiment.

The cue words of a label occur in both splits (that is the skill); targets, speakers, reasons and the
wording around the cue belong to one split. If labels are letters, the instruction says which letter
stands for which cue, because a small model cannot learn three arbitrary letters from a hundred examples.
"""

from random import Random

from cl_lightning.data.sample.bank import Bank, bank

LETTERS = "ABC"

_TARGETS = bank(
    "垃圾分类, 网课, 夜市, 远程办公, 共享单车, 电子书, 早起, 养狗",
    "素食, 直播, 快递柜, 露营, 广场舞",
)
_STANCE_OPENERS = bank("说实话, 我觉得, 在我看来, 今天想说, 真的, 其实, 朋友们", "老实讲, 我认为, 依我看, 大家好")
_STANCE_CUES: tuple[Bank, Bank, Bank] = (
    bank("我认可, 可行, 我看可, 可以有", "可用, 我说可, 我也认可"),
    bank("我不要, 不行, 我看不, 不会有", "不用, 我说不, 我也不要"),
    bank("我取中, 中等, 我看中, 中间就好", "居中, 我说中, 我也取中"),
)

_SPEAKERS = bank(
    "the chair, members, the committee, several governors, the board, one participant",
    "the vice chair, officials, the council, two directors",
)
_VERBS = bank("preferred to, agreed to, argued to, decided to", "wished to, voted to, proposed to")
_POLICY_REASONS: tuple[Bank, Bank, Bank] = (
    bank("Growth is weak, Jobs are lost, Demand is falling", "Demand is weak, Output is falling, Jobs are few"),
    bank("Inflation is high, Prices are rising, Wages are hot", "Prices are high, Inflation is up, Costs are rising"),
    bank("Risks are balanced, Data are mixed, Little is new", "News is mixed, Views are balanced, Risks are even"),
)
_POLICY_CUES: tuple[Bank, Bank, Bank] = (
    bank("cut rates, cut the rates, cut the policy rate", "cut the bank rate, cut borrowing costs"),
    bank("raise rates, raise the rates, raise the policy rate", "raise the bank rate, raise borrowing costs"),
    bank("hold rates, hold the rates, hold the policy rate", "hold the bank rate, hold borrowing costs"),
)

_ITEMS = bank(
    "film, hotel, phone, novel, cafe, song, jacket, museum, game, train ride",
    "laptop, concert, pizza, garden tour, camera, play, taxi",
)
_REVIEW_OPENERS = bank(
    "Honestly the {}, My first {}, That new {}, The old {} in town",
    "Last week's {}, Our favourite {}, The second {}",
)
_REVIEW_CUES: tuple[Bank, Bank] = (
    bank(
        "was wonderful and fun, felt great, is a pleasure, was lovely from start to end, made me happy, is superb",
        "was great fun, felt wonderful, is lovely, made us happy and calm, was a superb pleasure",
    ),
    bank(
        "was awful and dull, felt terrible, is a waste, was boring from start to end, made me angry, is horrible",
        "was terribly dull, felt awful, is boring, made us angry and tired, was a horrible waste",
    ),
)


def c_stance(rng: Random, split: str, index: int) -> tuple[str, str]:
    """Make a stance example; every target occurs with every stance, so the target alone says nothing."""
    label, target = _label_and_item(index, LETTERS, _TARGETS[split])
    opener, cue = rng.choice(_STANCE_OPENERS[split]), rng.choice(_STANCE_CUES[label][split])
    text = f"{opener}，{target}：{cue}。"
    return f"判断态度。\n文本：\n{text}\n对象：\n{target}\n态度（可: A, 不: B, 中: C）：", LETTERS[label]


def fomc(rng: Random, split: str, index: int) -> tuple[str, str]:
    """Make a statement whose reason and decision agree."""
    label = index % len(LETTERS)
    reason, cue = rng.choice(_POLICY_REASONS[label][split]), rng.choice(_POLICY_CUES[label][split])
    text = f"{reason}, so {rng.choice(_SPEAKERS[split])} {rng.choice(_VERBS[split])} {cue}."
    question = "What is the policy stance: cut: A, raise: B, hold: C? Answer A, B or C."
    return f"{question}\nText:\n{text}\nStance:", LETTERS[label]


def sentiment(rng: Random, split: str, index: int) -> tuple[str, str]:
    """Make a short review and the word for its sentiment."""
    label, item = _label_and_item(index, ("positive", "negative"), _ITEMS[split])
    opener, cue = rng.choice(_REVIEW_OPENERS[split]), rng.choice(_REVIEW_CUES[label][split])
    text = f"{opener.format(item)} {cue}."
    return f"Is the review positive or negative?\nReview:\n{text}\nSentiment:", ("positive", "negative")[label]


def _label_and_item(index: int, labels: str | tuple[str, ...], items: tuple[str, ...]) -> tuple[int, str]:
    """Take all pairs in turn, so that each item meets each label equally often."""
    return index % len(labels), items[index // len(labels) % len(items)]
