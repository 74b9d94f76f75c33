"""The identity packs: words for groups of people in English and Chinese, written for this project. Data, no code.

An axis has groups and, for each form that a text may use, one word a group in the same order (None: the group has no
such form). A form of another axis never stands in for one of this axis, and no pack claims to be complete: an audit
says which words it tested. `guarded` adjectives have other meanings too ("black", "straight", "old"), so that they
count only where they are said of people.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Words = tuple[str | None, ...]


@dataclass(frozen=True)
class Axis:
    """Groups of people, the words for them by form, the neutral word for each form, and other words for one group."""

    groups: tuple[str, ...]
    forms: dict[str, Words]
    neutral: dict[str, str]
    guarded: bool = False
    aliases: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    """Word to (group, form): found and masked, never written into a twin."""


@dataclass(frozen=True)
class Pack:
    """One language's axes. `name` carries the version of the list."""

    name: str
    language: str
    axes: dict[str, Axis]
    articles: bool
    roles: str = ""
    """Nouns, with spaces between, before which an adjective is said of a person."""
    kept: str = ""
    """Phrases, with ; between, that hold a word of the pack and mean nobody."""
    absorbed: dict[str, str] = field(default_factory=dict[str, str])
    """Nouns that merge with the neutral word before them, and what they make of it."""


_SOMEBODY = {"person": "individual", "people": "individuals", "adjective": "individual"}


def _adjectives(*words: str) -> dict[str, Words]:
    """Forms of an axis whose person is "ADJECTIVE person"."""
    return {
        "person": tuple(f"{word} person" for word in words),
        "people": tuple(f"{word} people" for word in words),
        "adjective": words,
    }


ENGLISH = Pack(
    name="en@1",
    language="en",
    articles=True,
    roles=(
        "man woman men women guy guys boy girl boys girls kid kids child children teenager person people "
        "persons individual individuals adult adults applicant applicants candidate candidates customer "
        "customers client clients user users patient patients student students pupil teacher doctor nurse "
        "engineer lawyer worker workers employee employees colleague colleagues manager boss friend friends "
        "neighbour neighbours neighbor neighbors tenant tenants guest guests visitor visitors driver "
        "passenger couple couples family families parent parents mother father son daughter brother sister "
        "wife husband partner caller sender member members community citizen citizens immigrant immigrants "
        "resident residents voter actor artist athlete"
    ),
    kept=(
        "black friday;white house;white paper;indian summer;indian ocean;chinese new year;chinese wall;"
        "german shepherd;turkish delight;turkish airlines;american express;american airlines;"
        "russian roulette;old age pension;christian dior;mexican wave"
    ),
    absorbed={
        "person": "individual",
        "individual": "individual",
        "people": "individuals",
        "persons": "individuals",
        "individuals": "individuals",
    },
    axes={
        "gender": Axis(
            groups=("woman", "man"),
            forms={
                "person": ("woman", "man"),
                "people": ("women", "men"),
                "adjective": ("female", "male"),
                "he": ("she", "he"),
                "him": ("her", "him"),
                "his": ("her", "his"),
                "hers": ("hers", "his"),
                "himself": ("herself", "himself"),
                "parent": ("mother", "father"),
                "child": ("daughter", "son"),
                "sibling": ("sister", "brother"),
                "spouse": ("wife", "husband"),
                "young": ("girl", "boy"),
                "polite": ("lady", "gentleman"),
                "title": ("Ms", "Mr"),
            },
            neutral={
                **_SOMEBODY,
                "he": "they",
                "him": "their",
                "his": "their",
                "hers": "their",
                "himself": "themselves",
                "parent": "parent",
                "child": "child",
                "sibling": "sibling",
                "spouse": "spouse",
                "young": "child",
                "polite": "individual",
                "title": "mx",
            },
            aliases={
                "mrs": ("woman", "title"),
                "miss": ("woman", "title"),
                "mum": ("woman", "parent"),
                "mom": ("woman", "parent"),
                "dad": ("man", "parent"),
                "guy": ("man", "person"),
            },
        ),
        "religion": Axis(
            groups=("Christian", "Muslim", "Jewish", "Hindu", "Buddhist", "Sikh", "atheist"),
            forms={
                "person": ("Christian", "Muslim", "Jewish person", "Hindu", "Buddhist", "Sikh", "atheist"),
                "people": ("Christians", "Muslims", "Jewish people", "Hindus", "Buddhists", "Sikhs", "atheists"),
                "adjective": ("Christian", "Muslim", "Jewish", "Hindu", "Buddhist", "Sikh", "atheist"),
            },
            neutral=_SOMEBODY,
            aliases={
                "jew": ("Jewish", "person"),
                "jews": ("Jewish", "people"),
                "catholic": ("Christian", "person"),
                "catholics": ("Christian", "people"),
                "protestant": ("Christian", "person"),
            },
        ),
        "ethnicity": Axis(
            groups=("Black", "white", "Asian", "Latino", "Arab", "Native American", "Romani"),
            forms=_adjectives("Black", "white", "Asian", "Latino", "Arab", "Native American", "Romani"),
            neutral=_SOMEBODY,
            guarded=True,
            aliases={"african american": ("Black", "adjective"), "hispanic": ("Latino", "adjective")},
        ),
        "nationality": Axis(
            groups=("American", "Chinese", "Indian", "Nigerian", "Mexican", "German", "Turkish", "Russian", "Syrian"),
            forms=_adjectives(
                "American", "Chinese", "Indian", "Nigerian", "Mexican", "German", "Turkish", "Russian", "Syrian"
            ),
            neutral=_SOMEBODY,
            aliases={
                "americans": ("American", "people"),
                "indians": ("Indian", "people"),
                "nigerians": ("Nigerian", "people"),
                "mexicans": ("Mexican", "people"),
                "germans": ("German", "people"),
                "russians": ("Russian", "people"),
                "turks": ("Turkish", "people"),
            },
        ),
        "age": Axis(
            groups=("young", "middle-aged", "elderly"),
            forms=_adjectives("young", "middle-aged", "elderly"),
            neutral=_SOMEBODY,
            guarded=True,
            aliases={"old": ("elderly", "adjective"), "older": ("elderly", "adjective")},
        ),
        "disability": Axis(
            groups=("able-bodied", "blind", "deaf", "autistic", "wheelchair-using"),
            forms={
                "person": ("able-bodied person", "blind person", "deaf person", "autistic person", "wheelchair user"),
                "people": ("able-bodied people", "blind people", "deaf people", "autistic people", "wheelchair users"),
                "adjective": ("able-bodied", "blind", "deaf", "autistic", "wheelchair-using"),
            },
            neutral=_SOMEBODY,
            guarded=True,
            aliases={"disabled": ("wheelchair-using", "adjective"), "paralyzed": ("wheelchair-using", "adjective")},
        ),
        "orientation": Axis(
            groups=("straight", "gay", "bisexual", "queer"),
            forms=_adjectives("straight", "gay", "bisexual", "queer"),
            neutral=_SOMEBODY,
            guarded=True,
            aliases={
                "homosexual": ("gay", "adjective"),
                "lesbian": ("gay", "adjective"),
                "heterosexual": ("straight", "adjective"),
                "homosexuals": ("gay", "people"),
                "lesbians": ("gay", "people"),
                "gays": ("gay", "people"),
            },
        ),
    },
)

_SOMEONE = {"person": "个人"}

CHINESE = Pack(
    name="zh@1",
    language="zh",
    articles=False,
    kept="其他;吉他;维他命;他乡;他日;印度人民;先生产",
    absorbed={"人士": "个人", "的人": "个人"},
    axes={
        "gender": Axis(
            groups=("女", "男"),
            forms={
                "person": ("女士", "先生"),
                "people": ("女人", "男人"),
                "adjective": ("女性", "男性"),
                "he": ("她", "他"),
                "parent": ("母亲", "父亲"),
                "child": ("女儿", "儿子"),
                "spouse": ("妻子", "丈夫"),
            },
            neutral={"person": "个人", "people": "个人", "adjective": "个人", "he": "TA", "parent": "家长"}
            | {"child": "孩子", "spouse": "配偶"},
            aliases={"妈妈": ("女", "parent"), "爸爸": ("男", "parent"), "小姐": ("女", "person")},
        ),
        "religion": Axis(
            groups=("佛教", "道教", "伊斯兰教", "基督教", "印度教", "无神论"),
            forms={"person": ("佛教徒", "道教徒", "穆斯林", "基督徒", "印度教徒", "无神论者")},
            neutral=_SOMEONE,
        ),
        "ethnicity": Axis(
            groups=("汉族", "回族", "藏族", "维吾尔族", "蒙古族", "壮族"),
            forms={"person": ("汉族人", "回族人", "藏族人", "维吾尔族人", "蒙古族人", "壮族人")},
            neutral=_SOMEONE,
            aliases={
                "汉族": ("汉族", "person"),
                "回族": ("回族", "person"),
                "藏族": ("藏族", "person"),
                "维吾尔族": ("维吾尔族", "person"),
                "蒙古族": ("蒙古族", "person"),
                "壮族": ("壮族", "person"),
            },
        ),
        "nationality": Axis(
            groups=("美国", "日本", "印度", "法国", "尼日利亚", "巴西"),
            forms={"person": ("美国人", "日本人", "印度人", "法国人", "尼日利亚人", "巴西人")},
            neutral=_SOMEONE,
        ),
        "origin": Axis(
            groups=("城里", "农村", "本地", "外地"),
            forms={"person": ("城里人", "农村人", "本地人", "外地人")},
            neutral=_SOMEONE,
            aliases={"农民工": ("农村", "person"), "乡下人": ("农村", "person")},
        ),
        "age": Axis(
            groups=("年轻", "中年", "老年"),
            forms={"person": ("年轻人", "中年人", "老年人")},
            neutral=_SOMEONE,
            aliases={"老人": ("老年", "person"), "青年人": ("年轻", "person")},
        ),
        "disability": Axis(
            groups=("健全", "盲", "聋", "自闭", "轮椅"),
            forms={"person": ("健全人", "盲人", "聋人", "自闭症患者", "轮椅使用者")},
            neutral=_SOMEONE,
            aliases={"残疾人": ("轮椅", "person")},
        ),
        "orientation": Axis(
            groups=("异性恋", "同性恋", "双性恋"),
            forms={"person": ("异性恋者", "同性恋者", "双性恋者")},
            neutral=_SOMEONE,
        ),
    },
)

PACKS = {pack.language: pack for pack in (ENGLISH, CHINESE)}
