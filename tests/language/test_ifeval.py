"""Verifiable instructions: each checker with texts that pass and texts that fail, strict and loose."""

# ruff: noqa: RUF001

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from advreg.errors import DataError
from advreg.language.evaluation.ifeval import CHECKERS, check_arguments, loose, strict
from advreg.language.evaluation.ifeval.scripts import detect
from advreg.language.evaluation.ifeval.text_stats import sentences

TABLE = [
    ("keywords:existence", {"keywords": ["mom", "cat"]}, ["My MOM has a cat."], ["My mom.", "A cat."]),
    ("keywords:existence", {"keywords": ["c++ (new)"]}, ["Learn C++ (new)."], ["Learn c+ new."]),
    ("keywords:forbidden_words", {"forbidden_words": ["rock"]}, ["a rocket", "stone"], ["A Rock!", "the rock"]),
    ("keywords:frequency", {"keyword": "war", "frequency": 2, "relation": "at least"}, ["War and war"], ["war"]),
    ("keywords:frequency", {"keyword": "war", "frequency": 2, "relation": "less than"}, ["war", "-"], ["war war"]),
    (
        "keywords:letter_frequency",
        {"letter": "#", "let_frequency": 3, "let_relation": "at least"},
        ["# a ## b"],
        ["# #"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "t", "let_frequency": 2, "let_relation": "less than"},
        ["The end"],
        ["The tent"],
    ),
    ("length_constraints:number_words", {"num_words": 4, "relation": "at least"}, ["a b c d"], ["a b, c."]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, ["a - b"], ["a b c"]),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "less than"},
        ["Dr. No met J. Doe."],
        ["One. Two."],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "at least"},
        ["A b. C d! E f?", "1. Go on.\n\n2. Stop.\n\nRest"],
        ["A costs 3.5 euros. B is free."],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n***\nb", "***\na\n***\nb\n***"],
        ["a", "a\n***\n***\nb", "a\n***\nb\n***\nc"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "elm"},
        ["Oak.\n\nElm, again", 'Oak\n\n\n\n"Elm" trees'],
        ["Elm\n\nOak", "Oak\n\nElms", "Oak\n\nElm\n\nAsh", "Oak"],
    ),
    (
        "language:response_language",
        {"language": "de"},
        ["Das ist ein kurzer Satz."],
        ["This is a short sentence.", "3"],
    ),
    ("change_case:english_capital", {}, ["THIS IS ALL LOUD 3!"], ["THIS Is", "DAS IST NICHT MEIN HUND", "123"]),
    ("change_case:english_lowercase", {}, ["this is all quiet."], ["this is Not", "das ist nicht mein hund"]),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["NASA and the EU", "CO2 is a WELL-KNOWN gas"],
        ["NASA and Eu", "no"],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "less than"},
        ["NASA and eu"],
        ["NASA, EU"],
    ),
    ("punctuation:no_comma", {}, ["a; b"], ["a, b"]),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[name] of [town]"], ["[name] of (town)"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["End\nP.S. more", "x p. s. more"], ["PS more"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["P.P.S more", "p. p. s. x"], ["P.S. more"]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, ["* a\n* b", "- a\n - b"], ["* a", "**a**\n* b"]),
    ("detectable_format:constrained_response", {}, ["My answer is maybe."], ["My answer is perhaps.", "maybe"]),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* and *b*", "**a** and *b*", "**a b**\n**c**"],
        ["*a*", "** ** and *b*", "*a\nb* c"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\na\nSECTION 2\nb"],
        ["SECTION 1\na", "SECTION one SECTION two"],
    ),
    ("detectable_format:json_format", {}, ['{"a": 1}', '```json\n{"a": [1]}\n```'], ["{a: 1}", 'Here: {"a": 1}']),
    ("detectable_format:title", {}, ["<<A day>>\ntext"], ["<A day>", "<< >>", "<<A\nday>>"]),
    ("combination:two_responses", {}, ["a\n******\nb"], ["a", "a******a", "a******b******c", "a************b"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, ["say hi.\nHi"], ["Hi", "Well: Say hi."]),
    ("startend:end_checker", {"end_phrase": "Peace!"}, ["Bye. peace!", '"So: Peace!"'], ["Peace! Bye."]),
    ("startend:quotation", {}, ['"All of it."'], ['"Half" of it', '"', "'all'"]),
]

LANGUAGES = {
    "en": "I would like to know when the next train to the city leaves.",
    "de": "Ich möchte wissen, wann der nächste Zug in die Stadt fährt.",
    "fr": "Je voudrais savoir quand le prochain train pour la ville part.",
    "es": "Me gustaría saber cuándo sale el próximo tren para la ciudad.",
    "it": "Vorrei sapere quando parte il prossimo treno per la città.",
    "pt": "Eu gostaria de saber quando sai o próximo trem para a cidade.",
    "nl": "Ik wil graag weten wanneer de volgende trein naar de stad gaat.",
    "fi": "Haluaisin tietää, milloin seuraava juna lähtee kaupunkiin, koska minun on oltava siellä.",
    "sw": "Ningependa kujua treni ya kwenda mjini itaondoka saa ngapi, kwa sababu mimi ni mgeni katika nchi hii.",
    "vi": "Tôi muốn biết khi nào chuyến tàu tiếp theo đến thành phố khởi hành.",
    "ru": "Я хотел бы знать, когда отправляется следующий поезд в город.",
    "bg": "Бих искал да знам кога тръгва следващият влак за града.",
    "hi": "मैं जानना चाहता हूँ कि शहर के लिए अगली ट्रेन कब जाती है।",
    "mr": "शहरात जाणारी पुढची गाडी कधी सुटते हे मला माहीत करून घ्यायचे आहे.",
    "ne": "सहर जाने अर्को रेल कहिले छुट्छ भनेर म जान्न चाहन्छु, किनभने यो मेरो लागि आवश्यक छ।",
    "ar": "أود أن أعرف متى يغادر القطار التالي إلى المدينة.",
    "fa": "می خواهم بدانم که قطار بعدی به شهر کی حرکت می کند و چند است.",
    "ur": "میں جاننا چاہتا ہوں کہ شہر کے لیے اگلی ٹرین کب جاتی ہے۔",
    "bn": "আমি জানতে চাই শহরের পরের ট্রেন কখন ছাড়ে।",
    "gu": "મારે જાણવું છે કે શહેર માટે આગલી ટ્રેન ક્યારે ઉપડે છે.",
    "kn": "ನಗರಕ್ಕೆ ಮುಂದಿನ ರೈಲು ಯಾವಾಗ ಹೊರಡುತ್ತದೆ ಎಂದು ತಿಳಿಯಬೇಕು.",
    "pa": "ਮੈਂ ਜਾਣਨਾ ਚਾਹੁੰਦਾ ਹਾਂ ਕਿ ਸ਼ਹਿਰ ਲਈ ਅਗਲੀ ਰੇਲ ਕਦੋਂ ਜਾਂਦੀ ਹੈ।",
    "ta": "நகரத்திற்கு அடுத்த ரயில் எப்போது புறப்படும் என்று அறிய விரும்புகிறேன்.",
    "te": "నగరానికి తదుపరి రైలు ఎప్పుడు బయలుదేరుతుందో తెలుసుకోవాలి.",
    "th": "ฉันอยากรู้ว่ารถไฟเที่ยวต่อไปไปเมืองออกเมื่อไหร่",
    "ko": "시내로 가는 다음 기차가 언제 출발하는지 알고 싶습니다.",
    "ja": "町へ行く次の電車がいつ出発するか知りたいです。",
    "zh": "我想知道去城里的下一班火车什么时候开。",
}


@pytest.mark.parametrize(("instruction", "arguments", "passes", "fails"), TABLE)
def test_checker_accepts_and_rejects_the_right_texts(instruction, arguments, passes, fails):
    given = check_arguments(instruction, arguments)
    assert all(strict(text, instruction, given) for text in passes)
    assert not any(strict(text, instruction, given) for text in fails)
    assert all(loose(text, instruction, given) for text in passes)  # what holds strictly holds loosely


def test_all_25_checkers_are_in_the_table():
    assert len(CHECKERS) == 25
    assert {row[0] for row in TABLE} == set(CHECKERS)


@pytest.mark.parametrize(("instruction", "arguments", "passes", "fails"), TABLE)
def test_empty_response_follows_no_instruction(instruction, arguments, passes, fails):
    assert not strict("", instruction, arguments)
    assert not loose(" \n", instruction, arguments)


@pytest.mark.parametrize(
    ("response", "instruction", "arguments"),
    [
        ("Sure, here it is:\nno comma", "punctuation:no_comma", {}),
        ("no comma\nI hope, it helps", "punctuation:no_comma", {}),
        ("Sure, yes:\nno comma\nI hope, it helps", "punctuation:no_comma", {}),
        ("**Peace!**", "startend:end_checker", {"end_phrase": "Peace!"}),
        ('Of course:\n*"All of it."*\nAnything else?', "startend:quotation", {}),
    ],
)
def test_loose_ignores_introduction_and_closing_line(response, instruction, arguments):
    assert not strict(response, instruction, arguments)
    assert loose(response, instruction, arguments)


def test_loose_keeps_the_middle_lines():
    assert not loose("Sure:\na, b\nc, d\nBye", "punctuation:no_comma", {})


@pytest.mark.parametrize("language", LANGUAGES)
def test_language_of_a_sentence_is_identified(language):
    assert detect(LANGUAGES[language]) == language


def test_english_is_identified_in_truthfulqa(shared: Path):
    with (shared / "data/language/truthfulqa.csv").open(encoding="utf-8") as file:
        texts = [row[key] for row in csv.DictReader(file) for key in ("Question", "Best Answer")]
    assert len(texts) > 1500
    assert {detect(text) for text in texts} == {"en"}


def test_every_instruction_of_ifeval_has_a_checker(shared: Path):
    rows = [json.loads(line) for line in (shared / "data/language/ifeval.jsonl").read_text().splitlines()]
    given = [pair for row in rows for pair in zip(row["instruction_id_list"], row["kwargs"], strict=True)]
    assert len(rows) == 541
    assert len(given) == 834
    assert {name for name, _ in given} == set(CHECKERS)
    for name, arguments in given:
        assert strict("word", name, check_arguments(name, arguments)) in (True, False)


@pytest.mark.parametrize(
    ("instruction", "arguments", "message"),
    [
        ("punctuation:no_commas", {}, "Did you mean 'punctuation:no_comma'"),
        ("punctuation:no_comma", {"n": 1}, r"has the arguments \['n'\]; it takes \[\]"),
        ("length_constraints:number_words", {"num_words": 3}, "it takes"),
        ("length_constraints:number_words", {"num_words": 3, "relation": "over"}, "allowed: 'at least', 'less than'"),
    ],
)
def test_unknown_instructions_raise_with_one_line(instruction, arguments, message):
    with pytest.raises(DataError, match=message) as caught:
        check_arguments(instruction, arguments)
    assert "\n" not in str(caught.value)


def test_sentences_end_at_marks_of_other_scripts():
    assert len(sentences("यह एक है। यह दो है।")) == 2
    assert len(sentences("これは一つです。これは二つです。")) == 2
