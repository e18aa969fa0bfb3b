"""The published task orders, spelt out from papers and codes: with two tasks changed round it is another benchmark."""

import pytest

from cl_lightning.data.benchmarks import long_sequence, ni_seq, superni, trace

PUBLISHED: dict[str, tuple[dict[str, tuple[str, ...]], dict[str, str]]] = {
    "TRACE's scripts, its paper's second order, SLICE's six": (
        trace.ORDERS,
        {
            "order1": "C-STANCE FOMC MeetingBank Py150 ScienceQA NumGLUE-cm NumGLUE-ds 20Minuten",
            "order2": "NumGLUE-cm NumGLUE-ds FOMC 20Minuten C-STANCE Py150 MeetingBank ScienceQA",
            "slice6": "C-STANCE FOMC MeetingBank Py150 ScienceQA NumGLUE-cm",
        },
    ),
    "Super-NI in SAPT and GainLoRA": (
        superni.ORDERS,
        {
            "order1": """
                task1572_samsum_summary
                task363_sst2_polarity_classification
                task1290_xsum_summarization
                task181_outcome_extraction
                task002_quoref_answer_generation
                task1510_evalution_relation_extraction
                task639_multi_woz_user_utterance_generation
                task1729_personachat_generate_next
                task073_commonsenseqa_answer_generation
                task1590_diplomacy_text_generation
                task748_glucose_reverse_cause_event_detection
                task511_reddit_tifu_long_text_summarization
                task591_sciq_answer_generation
                task1687_sentiment140_classification
                task875_emotion_classification
            """,
            "order2": """
                task748_glucose_reverse_cause_event_detection
                task073_commonsenseqa_answer_generation
                task1590_diplomacy_text_generation
                task639_multi_woz_user_utterance_generation
                task1572_samsum_summary
                task1687_sentiment140_classification
                task591_sciq_answer_generation
                task363_sst2_polarity_classification
                task1510_evalution_relation_extraction
                task1729_personachat_generate_next
                task181_outcome_extraction
                task511_reddit_tifu_long_text_summarization
                task002_quoref_answer_generation
                task1290_xsum_summarization
                task875_emotion_classification
            """,
        },
    ),
    "Long Sequence in GainLoRA, the standard benchmark in O-LoRA's scripts": (
        long_sequence.ORDERS,
        {
            "order3": "yelp amazon mnli cb copa qqp rte imdb sst2 dbpedia agnews yahoo multirc boolq wic",
            "order4": "mnli cb wic copa qqp boolq rte imdb yelp amazon sst2 dbpedia agnews multirc yahoo",
            "standard1": "dbpedia amazon yahoo agnews",
            "standard2": "dbpedia amazon agnews yahoo",
            "standard3": "yahoo amazon agnews dbpedia",
        },
    ),
    "NI-Seq and the opposite sequences in SLICE": (
        ni_seq.ORDERS,
        {
            "C1": "task195 task1343 task1310 task1292 task363",
            "C2": "task231 task1343 task220 task224 task273",
            "G1": "task618 task1290 task589 task511 task1357",
            "G2": "task1355 task141 task619 task163 task002",
            "M1": "task360 task363 task1290 task339 task1510",
            "M2": "task195 task611 task292 task488 task024",
            "opposite1": "task141 task1510 task360 task363 task611",
            "opposite2": "task088 task090 task1510 task363 task611",
            "opposite3": "task088 task1510 task181 task243 task363",
            "opposite4": "task088 task1510 task243 task363 task611",
            "opposite5": "task088 task141 task181 task243 task363",
            "opposite6": "task088 task1429 task181 task243 task363",
            "opposite7": "task086 task088 task1510 task181 task243",
        },
    ),
}


@pytest.mark.parametrize("benchmark", PUBLISHED)
def test_the_orders_are_the_published_ones(benchmark: str) -> None:
    ours, published = PUBLISHED[benchmark]
    assert ours == {order: tuple(tasks.split()) for order, tasks in published.items()}
