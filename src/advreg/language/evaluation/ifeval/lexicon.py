"""Common words and characteristic letters of 37 languages, by script, for language identification."""
# ruff: noqa: RUF001

from __future__ import annotations

SCRIPTS = {
    "KANNADA": ("kn",),
    "GURMUKHI": ("pa",),
    "GUJARATI": ("gu",),
    "TELUGU": ("te",),
    "TAMIL": ("ta",),
    "BENGALI": ("bn",),
    "MALAYALAM": ("ml",),
    "THAI": ("th",),
    "HANGUL": ("ko",),
    "HIRAGANA": ("ja",),
    "KATAKANA": ("ja",),
    "CJK": ("zh",),
    "GREEK": ("el",),
    "HEBREW": ("he",),
    "DEVANAGARI": ("hi", "mr", "ne"),
    "CYRILLIC": ("ru", "bg", "uk"),
    "ARABIC": ("ar", "fa", "ur"),
    "LATIN": ("en", "de", "fr", "es", "it", "pt", "nl", "fi", "sw", "vi", "sv", "pl", "tr", "id"),
}
"""Unicode name of a script -> ISO 639-1 codes of its languages, the most common first."""

LETTERS = {
    "ru": "ыэё",
    "bg": "ъ",
    "uk": "іїєґ",
    "mr": "ळ",
    "fa": "پژگچ",
    "ur": "ٹڈڑںےہھ",
    "ar": "ةىأإ",
    "vi": "ăđơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ",
    "de": "ßü",
    "es": "ñ¿¡",
    "pt": "ãõ",
    "tr": "ğış",
    "pl": "łąęśźż",
    "sv": "å",
}
"""Letters that distinguish a language from the others of its script."""

WORDS = {
    "en": "the of and to in is that it for was on are as with be this have from or by not you at an they which but we can "
    "all will what if there do my would about a i he she his her your our their has had been so no when who per than",
    "de": "der die das und ist nicht ein eine zu den mit von für auf sich dem des im es ich sie wir auch als wie aus bei "
    "nach wird sind haben hat oder aber wenn nur noch kann mein dein du er einen einem einer werden sein war",
    "fr": "le la les des et est une un du que qui dans pour pas sur avec ce il elle nous vous au aux par plus ne je tu sont "
    "mais ou cette ces ses son sa mon ma être avoir fait comme tout leur",
    "es": "el la los las de y que en un una es por con para no se del al lo como más pero sus le ha su me si sin sobre este "
    "esta son muy también fue hay yo tu mi nos cuando todo está desde",
    "it": "il lo la gli le di e che è un una per con non del della dei delle si in come più ma sono nel nella al alla anche "
    "questo questa ho ha io tu mi ci suo sua mio mia da dal tutti molto essere era",
    "pt": "o a os as de e que em um uma é por com para não se do da dos das no na nos nas ao mais mas como foi seu sua eu "
    "você isso este esta são muito também pelo pela meu minha ele ela está ser tem",
    "nl": "de het een en van is dat niet in op te zijn met voor er aan ook als maar om dan nog bij uit ik je hij ze wij "
    "naar heeft hebben wordt deze dit werd kan geen wat of mijn",
    "fi": "ja on ei se että ole mutta kun niin myös tai joka ovat hän kuin oli olen sinun minun he me minä sinä tämä voi "
    "sen sitä jos mitä kaikki nyt vain hyvin koska jotka olla siitä ne tässä sekä kanssa jo",
    "sw": "na ya wa kwa ni katika za la cha kuwa hii kama si yake pia au lakini hiyo huo watu ambayo ambao hayo yangu sana "
    "wote moja mimi sisi wewe yeye kila hivyo bila vya baada kutoka hadi mwa zaidi ili nini",
    "vi": "và của là có không cho một những được trong với các người này đã để khi tôi bạn nhưng về từ đến như cũng ở làm "
    "rất ra vào sẽ phải nếu thì hay nhiều",
    "sv": "och att det som en är på för med av inte den till ett jag om har de vi var men sig från så kan när han hon "
    "eller du mig nu mycket",
    "pl": "i w na z się nie to że do jest jak o ale po co tak za od przez są dla jego ma tylko czy być który która",
    "tr": "ve bir bu da de için ile ne çok daha ben sen gibi var ama olarak mi mı kadar olan değil o ki her",
    "id": "yang dan di untuk dengan ini itu dari tidak pada adalah saya akan ke dalam anda bisa ada juga atau mereka karena "
    "oleh kami seperti sudah telah",
    "hi": "है हैं का के की में और को से पर यह नहीं हूँ था थी थे कि एक भी ने लिए हो कर साथ या इस उस वह तो मैं हम आप अपने ही करते",
    "mr": "आहे आहेत आणि मध्ये नाही हे ते ही तो या असे होते होता त्या त्याच्या साठी एक मी आपण तुम्ही करा आम्ही करून व काही झाले "
    "त्यांच्या माझ्या खूप आपल्या जे असतो असते",
    "ne": "छ छन् र मा को का लाई हो गर्न भएको यो हुन्छ गर्नुहोस् पनि गर्छ थियो म हामी तपाईं छैन भने तर धेरै हुन् गरेको यस त्यो "
    "हाम्रो मेरो एक बाट लागि गर्छन् हुने छु",
    "ru": "и в не на что с по как это я он она мы вы они но к у из за от для так все его её бы же был была было есть или "
    "если только очень мой",
    "bg": "и на за да се не от с са като това в е си по ще но той тя аз ние вие те до или към при има беше много който която "
    "със във ми му го",
    "uk": "і в не на що з як це я він вона ми ви вони але до у за від для так все його й та є був була було або якщо тільки "
    "дуже мій",
    "ar": "في من على أن إلى هذا هذه التي الذي هو هي كان لا ما عن مع لم قد كل أو ثم بعد بين لكن و ذلك أنا نحن إن",
    "fa": "و در به از که این را با است برای آن یک می ها تا بر خود شما ما من هم اما نیست بود باید اگر هر شود کند های",
    "ur": "ہے میں کی کے اور کا سے کو یہ نے پر ہیں کہ اس ایک بھی نہیں ہو کر تھا آپ وہ جو ہم کیا لیے تھی ہوں تو",
}
