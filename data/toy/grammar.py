"""A small grammar that writes English and Chinese side by side. Knows the words of lexicon.py, and no files or splits.

Every function draws one phrase and says it in both languages, so each is a rule of translation; its docstring shows
what it says. What the two languages do differently:

- Chinese counts with a measure word that the noun chooses: *two books* 两本书, *two cats* 两只猫. 两 counts, 二 is a digit.
- Verbs and nouns never change. Completion is 了, going on 正在, experience 过; *did not* is 没, *does not* is 不.
- Time, company and place come before the verb: *reads at home every day* 每天在家里看书.
- Questions keep the order of statements: 吗 at the end, or a question word where the answer would stand.
- Whatever describes a noun comes before it, even a whole clause: *the book that i bought* 我买的书.
- A known thing that is moved or changed stands before the verb with 把; one that is talked about may come first of all.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from lexicon import (
    ACTIONS,
    ADJECTIVES,
    DESTINATIONS,
    DETERMINERS,
    DISPOSALS,
    FURNITURE,
    GROWN_UPS,
    KIN,
    NOUNS,
    OUTDOORS,
    PEOPLE,
    PETS,
    PLACES,
    POSSESSIONS,
    PRONOUNS,
    ROOMS,
    SENSES,
    SMALL_THINGS,
    SPOTS,
    STATES,
    TIMES,
    UNMEASURED,
    VEHICLES,
    VERBS,
    Action,
    Noun,
    Pronoun,
    Sense,
)

Item = TypeVar("Item")
Pair = tuple[
    str, str
]  # two words that a rule puts together: (red, book), (read, book), (teacher, read), (read, park)
Pairs = frozenset[Pair]
NONE: Pairs = frozenset()


class Draw:
    """Random choices that are the same on every Python: only random.random() is promised never to change."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def one(self, items: Sequence[Item]) -> Item:
        return items[int(self._random() * len(items))]

    def chance(self, probability: float) -> bool:
        return self._random() < probability


@dataclass(frozen=True)
class Phrase:
    """The same thing in both languages, and the word pairs inside it."""

    english: str
    chinese: str
    pairs: Pairs = NONE
    head: str = ""  # the noun that others combine with; empty for pronouns
    person: str = "he"  # whose verb forms it takes: i, they, or he
    bare: bool = False  # an object without number or owner, such as *books*: 了 then follows it
    pronoun: Pronoun | None = None  # how to speak of it again


EMPTY = Phrase("", "")


def rule(english: str, chinese: str, *parts: Phrase, pairs: Iterable[Pair] = NONE) -> Phrase:
    """One translation rule: the same parts in an English and in a Chinese pattern, each where its number stands."""
    return Phrase(
        " ".join(english.format(*(part.english for part in parts)).split()),
        chinese.format(*(part.chinese for part in parts)),
        frozenset(pairs).union(*(part.pairs for part in parts)),
    )


# -------------------------------------------------------------------------------------------------------- noun phrases


def adjectives(draw: Draw, noun: Noun, probability: float) -> Phrase:
    """None, one, or two: *big* 大, *expensive* 很贵的, *new red* 红色的新: in Chinese the short one stays with the noun."""
    fitting = [adjective for adjective in ADJECTIVES if noun.name in adjective.nouns]
    if not fitting or not draw.chance(probability):
        return EMPTY
    chosen = [draw.one(fitting)]
    colours = [adjective for adjective in fitting if adjective.is_colour]
    if colours and not chosen[0].before.endswith("的") and draw.chance(0.5):
        chosen.append(draw.one(colours))
    first, *second = [
        Phrase(row.english, row.before, frozenset({(row.english, noun.name)})) for row in chosen
    ]
    return rule("{0} {1}", "{1}{0}", first, *second) if second else first


def noun_phrase(draw: Draw, noun: Noun, kinds: str, adjective: float = 0.4) -> Phrase:
    """*two red books* 两本红色的书, *this cup of tea* 这杯茶, *my shoes* 我的鞋, *the dogs* 狗; one of the `kinds` of lexicon.py.

    Kinds beside those: t *the* (bare in Chinese) · y *any* (bare) · q *how many* 几 · w *which* 哪.
    """
    kind = draw.one(kinds)
    if not noun.measure and kind not in "ty":
        kind = "b"
    said = (unmeasured if kind in "bytpo" else measured)(
        draw, noun, kind, adjectives(draw, noun, adjective)
    )
    return replace(said, head=noun.name)


def unmeasured(draw: Draw, noun: Noun, kind: str, description: Phrase) -> Phrase:
    """*books* 书, *any books* 书, *the books* 书, *my books* 我的书. One 的 is enough: 我红色的书. Known people take 们."""
    plural = not noun.one or kind in "by" or (kind != "o" and draw.chance(0.4))
    owner = possessor(draw) if kind in "po" else Phrase({"b": "", "y": "any", "t": "the"}[kind], "")
    of = "的" if kind in "po" and not description.chinese.endswith("的") else ""
    several = "们" if plural and noun.name in PEOPLE and kind in "tp" else ""
    thing = Phrase(noun.many if plural else noun.one, noun.chinese + several)
    countable = noun.one or noun.containers == "pairs"
    said = rule("{0} {1} {2}", "{0}" + of + "{1}{2}", owner, description, thing)
    return replace(said, person="they" if plural and countable else "he", bare=kind in "by")


def measured(draw: Draw, noun: Noun, kind: str, description: Phrase) -> Phrase:
    """*two books* 两本书, *an old car* 一辆旧汽车, *three cups of hot tea* 三杯热茶; no measure word after 这些 or 很多."""
    choices = [row for row in DETERMINERS[kind] if not (noun.container and row[1] in UNMEASURED)]
    english, chinese = draw.one(choices)
    plural = english not in ("a", "this", "that", "which")
    measure = "" if chinese in UNMEASURED else noun.measure
    container = noun.container and f"{noun.containers if plural else noun.container} of"
    name = noun.many if plural or noun.container else noun.one
    said = rule(f"{container} {{0}} {name}", f"{chinese}{measure}{{0}}{noun.chinese}", description)
    article = "an" if english == "a" and said.english[0] in "aeiou" else english
    return replace(said, english=f"{article} {said.english}", person="they" if plural else "he")


def possessor(draw: Draw) -> Phrase:
    """*my* 我, *her father 's* 她爸爸."""
    pronoun = draw.one(PRONOUNS)
    return (
        rule("{0} 's", "{0}", kin(draw))
        if draw.chance(0.25)
        else Phrase(pronoun.possessive, pronoun.chinese)
    )


def kin(draw: Draw, but: str = "") -> Phrase:
    """*my mother* 我妈妈: family is close enough to go without 的."""
    owner, name = draw.one(PRONOUNS), draw.one([name for name in KIN if name != but])
    again = PRONOUNS[2 if "father" in name else 3]
    return Phrase(
        f"{owner.possessive} {name}", owner.chinese + NOUNS[name].chinese, head=name, pronoun=again
    )


def somebody(draw: Draw, pronouns: Sequence[Pronoun] = PRONOUNS, but: str = "") -> Phrase:
    """Who does it: *she* 她, *my mother* 我妈妈, *the young teachers* 年轻的老师们, *that girl* 那个女孩."""
    if pronouns and draw.chance(0.25):
        return spoken(draw.one(pronouns))
    if draw.chance(0.45):
        return kin(draw, but)
    noun = NOUNS[draw.one([name for name in PEOPLE if name != but])]
    said = noun_phrase(draw, noun, PEOPLE[noun.name], adjective=0.3)
    sure = {("boy", "he"): PRONOUNS[2], ("girl", "he"): PRONOUNS[3]}
    they = PRONOUNS[5] if said.person == "they" and noun.name != "girl" else None  # 他们 or 她们?
    return replace(said, pronoun=sure.get((noun.name, said.person), they))


def spoken(pronoun: Pronoun) -> Phrase:
    """*she* 她."""
    person = {"i": "i", "he": "he", "she": "he"}.get(pronoun.subject, "they")
    return Phrase(pronoun.subject, pronoun.chinese, person=person, pronoun=pronoun)


def spot(draw: Draw) -> Phrase:
    """*on the table in the kitchen* 厨房里的桌子上, *in the bag on the chair* 椅子上的包里: Chinese says the outer place first."""
    inner = draw.one(SPOTS)
    said = Phrase(f"{inner.preposition} the {inner.thing}", NOUNS[inner.thing].chinese + inner.side)
    if draw.chance(0.5):
        return said
    if inner.thing in FURNITURE:
        room = PLACES[draw.one(ROOMS)]
        return rule("{0} {1}", "{1}的{0}", said, Phrase(room.english, room.chinese + "里"))
    row = draw.one([row for row in SPOTS if row.thing in FURNITURE])
    outer = Phrase(f"{row.preposition} the {row.thing}", NOUNS[row.thing].chinese + row.side)
    return rule("{0} {1}", "{1}的{0}", said, outer)


# ---------------------------------------------------------------------------------------------------------- predicates


@dataclass(frozen=True)
class Predicate:
    """A verb with its object and goal, before subject, tense and adjuncts: *put the book on the table*, 把书 + 放在桌子上."""

    verb: str
    rest: str  # English, after the verb
    before: str  # Chinese, before the verb: 把书, 坐公共汽车
    core: str  # the Chinese verb, which 了 and 过 follow
    object: str = ""
    pairs: Pairs = NONE
    bare: bool = False
    places: Sequence[str] = ()  # where it is done
    sense: Sense | None = None


def transitive(draw: Draw, sense: Sense, aspect: str, mood: str) -> Predicate | None:
    """*reads two books* 看两本书, *wore a hat* 戴了一顶帽子; None if the verb is not said in this aspect."""
    kinds = {letter for letter in sense.determiners if letter != "r"}
    if aspect == "like":  # in general
        kinds &= {"b"}
    elif aspect == "perfect":  # experience with a known thing
        kinds &= {"d", "s"}
    elif aspect == "now":  # one thing at a time
        kinds -= {"n", "m", "p", "o"}
    elif aspect == "habit":
        kinds -= {"m"} if "r" in sense.determiners else {"m", "d", "p", "s", "o"}
    if mood != "yes" and aspect not in (
        "like",
        "perfect",
    ):  # *not … any books*, for a number would be ambiguous
        kinds = kinds & set("dpso") | ({"y"} if kinds & {"a", "n"} else kinds & {"b"})
    if not kinds or (aspect == "perfect" and not VERBS[sense.verb].participle):
        return None
    thing = noun_phrase(draw, NOUNS[draw.one(sense.objects)], "".join(sorted(kinds)))
    pairs = thing.pairs | {(sense.verb, thing.head)}
    return Predicate(
        sense.verb,
        thing.english,
        "",
        sense.chinese,
        thing.chinese,
        pairs,
        thing.bare,
        sense.places,
        sense,
    )


def intransitive(act: Action) -> Predicate:
    """*swim* 游泳, *sleep* 睡觉."""
    return Predicate(act.verb, "", "", act.chinese, places=act.places, bare=True)


def disposal(draw: Draw) -> Predicate:
    """*put the book on the table* 把书放在桌子上, *gave this hat to her mother* 把这顶帽子送给她妈妈."""
    row = draw.one(DISPOSALS)
    noun = NOUNS[draw.one(row.objects)]
    thing = noun_phrase(
        draw, noun, "t" if noun.container or not noun.measure or noun.name in PEOPLE else "ttdp"
    )
    goal = EMPTY
    if row.goal == "spot":
        goal = spot(draw)
    elif row.goal == "place":
        place = PLACES[draw.one(DESTINATIONS)]
        goal = Phrase(f"to {place.name}", place.chinese)
    elif row.goal == "person":
        goal = rule("to {0}", "{0}", somebody(draw, pronouns=()))
    said = rule("{0} {1}", f"{row.chinese}{{1}}", thing, goal, pairs={(row.verb, noun.name)})
    return Predicate(row.verb, said.english, "把" + thing.chinese, said.chinese, pairs=said.pairs)


def journey(draw: Draw) -> Predicate:
    """*go to the park by bus* 坐公共汽车去公园, *go to the library to read books* 去图书馆看书."""
    if draw.chance(0.5):
        english, chinese, names = draw.one(VEHICLES)
        place = PLACES[draw.one(names)]
        return Predicate("go", f"to {place.name} {english}", chinese, "去", place.chinese)
    sense = draw.one(
        [row for row in SENSES if "b" in row.determiners and set(row.places) & set(DESTINATIONS)]
    )
    goal = draw.one([name for name in sense.places if name in DESTINATIONS])
    thing = noun_phrase(draw, NOUNS[draw.one(sense.objects)], "b")
    return Predicate(
        "go",
        f"to {PLACES[goal].name} to {sense.verb} {thing.english}",
        "",
        f"去{PLACES[goal].chinese}{sense.chinese}",
        thing.chinese,
        thing.pairs | {(sense.verb, thing.head), (sense.verb, goal)},
        bare=True,
    )


def predicate(draw: Draw, aspect: str, mood: str) -> Predicate:
    """Any of the above that can be said in this aspect."""
    found = None
    while not found:
        kind = draw.one(["object"] * 6 + ["none", "disposal", "disposal", "journey"])
        if kind == "object" or aspect == "perfect":
            found = transitive(draw, draw.one(SENSES), aspect, mood)
        elif kind == "none":
            found = intransitive(draw.one(ACTIONS))
        elif kind == "disposal" and aspect in ("past", "future", "want"):
            found = disposal(draw)
        elif kind == "journey" and aspect not in ("now", "like"):
            found = journey(draw)
    return found


# ------------------------------------------------------------------------------------------------------------- clauses

MARKERS = {  # what Chinese says before the verb: in statements and questions, in negations
    "habit": ("", "不"),
    "past": ("", "没"),
    "future": ("会", "不会"),
    "now": ("正在", "没在"),
    "perfect": ("", "没"),
    "want": ("想", "不想"),
    "like": ("喜欢", "不喜欢"),
}
ASPECTS = ["past", "habit"] * 5 + ["future", "now"] * 3 + ["want", "perfect"] * 2 + ["like"]
BE = {"i": "am", "he": "is", "they": "are"}
WAS = {"i": "was", "he": "was", "they": "were"}
OTHERS = [
    pronoun for pronoun in PRONOUNS if pronoun.subject not in ("i", "we")
]  # one seldom asks about oneself


def english_verb(person: str, aspect: str, verb: str, plain: bool) -> tuple[str, str]:
    """Auxiliary and main verb: ("", *reads*) when plain, (*does*, *read*) when negated or asked; (*is*, *reading*)."""
    third = person == "he"
    if aspect == "future":
        return "will", verb
    if aspect == "now":
        return BE[person], VERBS[verb].ing
    if aspect == "perfect":
        return "has" if third else "have", VERBS[verb].participle
    leading, rest = (aspect, f" to {verb}") if aspect in ("want", "like") else (verb, "")
    if not plain:
        return "did" if aspect == "past" else "does" if third else "do", leading + rest
    forms = VERBS[leading]
    return "", (forms.past if aspect == "past" else forms.third if third else forms.base) + rest


@dataclass(frozen=True)
class Clause:
    """Who does what, with whom, where and when; `say` puts it into words."""

    subject: Phrase
    aspect: str
    mood: str  # yes, no, ask
    predicate: Predicate
    time: Phrase = EMPTY
    time_first: bool = False
    company: Phrase = EMPTY
    place: str = ""
    wh: Phrase = EMPTY  # the question word that English says first, and what of it stands before the Chinese verb
    also: bool = False
    then: bool = False  # 就, which answers 如果

    def say(self) -> Phrase:
        """English puts company, place and time after the verb, nearest first; Chinese before it, time first."""
        verb, head = self.predicate.verb, self.subject.head
        pairs = self.subject.pairs | self.predicate.pairs | self.company.pairs
        pairs |= {
            (one, other) for one, other in ((head, verb), (verb, self.place)) if one and other
        }
        return Phrase(self._english(), self._chinese(), pairs)

    def _english(self) -> str:
        do, time = self.predicate, self.time.english
        asks = self.mood == "ask" or bool(self.wh.english)
        auxiliary, verb = english_verb(
            self.subject.person, self.aspect, do.verb, self.mood == "yes" and not asks
        )
        subject = (
            f"{auxiliary} {self.subject.english}" if asks else f"{self.subject.english} {auxiliary}"
        )
        not_also = ("not " if self.mood == "no" else "") + ("also" if self.also else "")
        company = self.company.english and f"with {self.company.english}"
        place = PLACES[self.place].english if self.place else ""
        first, last = (time, "") if self.time_first else ("", time)
        words = f"{self.wh.english} {first} {subject} {not_also} {verb} {do.rest} {company} {place} {last}"
        return " ".join(words.split())

    def _chinese(self) -> str:
        do, subject, time = self.predicate, self.subject.chinese, self.time.chinese
        opening = time + subject if self.time_first else subject + time
        marker = MARKERS[self.aspect][self.mood == "no"]
        wearing = self.aspect == "now" and do.verb == "wear"  # a state that lasts: 穿着, not 正在穿
        if wearing:
            marker = marker.replace("正在", "").replace("在", "")
        company = self.company.chinese and f"和{self.company.chinese}一起"
        place = f"在{PLACES[self.place].where}" if self.place else ""
        if marker.endswith("在") and place and not company:
            place = place[1:]  # one 在 is enough: 正在学校看书
        adverbs = ("也" if self.also else "") + ("就" if self.then else "")
        done = self.aspect == "past" and self.mood != "no"
        verb = do.core + (
            "着"
            if wearing
            else "过"
            if self.aspect == "perfect"
            else "了"
            if done and not do.bare
            else ""
        )
        topic, thing = (
            (do.object, "") if self.aspect == "perfect" else ("", do.object)
        )  # 这本书我看过
        final = ("了" if done and do.bare else "") + ("吗" if self.mood == "ask" else "")
        return f"{topic}{opening}{adverbs}{self.wh.chinese}{marker}{company}{place}{do.before}{verb}{thing}{final}"


def clause(
    draw: Draw,
    aspect: str,
    mood: str = "yes",
    subject: Phrase | None = None,
    do: Predicate | None = None,
    adjuncts: float = 0.6,
    timed: bool = True,
    first: float = 0.25,
) -> Clause:
    """A clause that makes sense: the place fits the verb, the time the aspect, and nobody goes along with themselves.

    Place and company are there with probability `adjuncts` and a third of it, the time stands first with `first`.
    """
    subject = subject or somebody(draw)
    while not do or ("homework" in do.rest and subject.head in GROWN_UPS):
        do = predicate(draw, aspect, mood)
    company, place, when = EMPTY, "", EMPTY
    if (
        do.places
        and aspect != "perfect"
        and (aspect, mood) != ("now", "no")
        and draw.chance(adjuncts)
    ):
        place = draw.one(do.places)
    social = (do.places or do.verb == "go") and do.verb != "sleep"
    if social and aspect not in ("now", "perfect") and mood != "no" and draw.chance(adjuncts / 3):
        company = somebody(draw, pronouns=(), but=subject.head)
    times = TIMES[aspect]
    if times and timed:
        when = Phrase(
            *draw.one(times[2:] if (aspect, mood) == ("habit", "no") else times)
        )  # *not … every day*?
    return Clause(
        subject, aspect, mood, do, when, draw.chance(first) and aspect != "now", company, place
    )


# ----------------------------------------------------------------------------------------------------------- sentences


def finish(said: Phrase, mark: str = ".") -> Phrase:
    """The full stop or question mark, a token of its own in English."""
    return rule(f"{{0}} {mark}", "{0}" + {".": "。", "?": "？"}[mark], said)


def statement(draw: Draw) -> Phrase:
    """*yesterday my father read two books at home .* 昨天我爸爸在家里看了两本书。"""
    return finish(clause(draw, draw.one(ASPECTS), draw.one(["yes"] * 4 + ["no"])).say())


def question(draw: Draw) -> Phrase:
    """*did you read any books in the library yesterday ?* 你昨天在图书馆看书了吗？"""
    return finish(
        clause(draw, draw.one(ASPECTS), "ask", somebody(draw, OTHERS), first=0).say(), "?"
    )


def wh_question(draw: Draw) -> Phrase:
    """*what did you buy yesterday ?* 你昨天买了什么？ *how many books …* …几本书？ *who* 谁 *why* 为什么 *where* 在哪儿"""
    kind = draw.one(["who", "why", "where", "what", "which", "which", "which"])
    who = somebody(draw, OTHERS)
    if kind == "who":
        who = Phrase("who", "谁")
        return finish(
            clause(draw, draw.one(["past", "future", "want"]), "yes", who, first=0).say(), "?"
        )
    if kind == "why":
        asked = clause(draw, draw.one(["habit", "past", "future"]), "no", who, first=0)
        return finish(replace(asked, wh=Phrase("why", "为什么")).say(), "?")
    if kind == "where":
        aspect = draw.one(["habit", "future", "want"])
        do = transitive(
            draw,
            draw.one([row for row in SENSES if row.places and row.verb != "do"]),
            aspect,
            "yes",
        )
        assert do
        asked = clause(draw, aspect, "yes", who, replace(do, places=(), before="在哪儿"), first=0)
        return finish(replace(asked, wh=Phrase("where", "")).say(), "?")
    sense = draw.one(
        [
            row
            for row in SENSES
            if row.verb in ("read", "write", "draw", "buy", "eat", "drink", "make")
        ]
    )
    thing = Phrase("what", "什么")
    countable = [NOUNS[name] for name in sense.objects if NOUNS[name].one]
    if kind == "which" and countable:
        thing = noun_phrase(draw, draw.one(countable), "qw")
    pairs = thing.pairs | ({(sense.verb, thing.head)} if thing.head else NONE)
    do = Predicate(sense.verb, "", "", sense.chinese, thing.chinese, pairs, places=sense.places)
    asked = clause(draw, draw.one(["past", "future", "want"]), "yes", who, do, first=0)
    return finish(replace(asked, wh=Phrase(thing.english, "")).say(), "?")


def request(draw: Draw) -> Phrase:
    """*please put the cups on the table .* 请把杯子放在桌子上。 *please do not close the door .* 请不要把门关上。"""
    do = disposal(draw)
    wish = Phrase(f"{do.verb} {do.rest}", do.before + do.core, do.pairs)
    pattern = ("please do not {0}", "请不要{0}") if draw.chance(0.35) else ("please {0}", "请{0}")
    return finish(rule(*pattern, wish))


def gift(draw: Draw) -> Phrase:
    """*she gave her mother three flowers yesterday .* 她昨天送给了她妈妈三朵花。"""
    giver = somebody(draw)
    friend = somebody(draw, pronouns=(), but=giver.head)
    row = next(row for row in DISPOSALS if row.verb == "give")
    thing = noun_phrase(draw, NOUNS[draw.one(row.objects)], "an")
    both = rule("{0} {1}", "{0}{1}", friend, thing, pairs={("give", thing.head)})
    do = Predicate("give", both.english, "", row.chinese, both.chinese, both.pairs)
    return finish(clause(draw, draw.one(["past", "future", "want"]), "yes", giver, do).say())


def things(draw: Draw, names: Sequence[str], mood: str, adjective: float = 0.5) -> Phrase:
    """*a book* 一本书, *a book and two pens* 一本书和两支笔; *any books* 书 in questions and negations."""
    first = draw.one(names)
    if mood != "yes":
        return noun_phrase(draw, NOUNS[first], "y", adjective)
    thing = noun_phrase(draw, NOUNS[first], "anm", adjective)
    if draw.chance(0.6):
        return thing
    second = noun_phrase(
        draw, NOUNS[draw.one([name for name in names if name != first])], "an", adjective
    )
    return replace(rule("{0} and {1}", "{0}和{1}", thing, second), person=thing.person)


def there_is(draw: Draw) -> Phrase:
    """*there are two cats under the table .* 桌子下面有两只猫。 *are there any books in the bag ?* 包里有书吗？"""
    mood = draw.one(["yes", "yes", "yes", "no", "ask"])
    if draw.chance(0.6):
        thing, where = things(draw, SMALL_THINGS, mood), spot(draw)
    else:
        place = PLACES[draw.one([*ROOMS, "library", "park", "shop", "hospital"])]
        where = Phrase(place.english, place.chinese + "里")
        thing = things(
            draw, draw.one([[*PETS, *FURNITURE], ["teacher", "doctor", "student", "child"]]), mood
        )
    if mood == "ask":
        return finish(rule("are there {0} {1}", "{1}有{0}吗", thing, where), "?")
    if mood == "no":
        return finish(rule("there are not {0} {1}", "{1}没有{0}", thing, where))
    return finish(rule(f"there {BE[thing.person]} {{0}} {{1}}", "{1}有{0}", thing, where))


def owning(draw: Draw) -> Phrase:
    """*does she have any cats ?* 她有猫吗？ *my father has two old bicycles .* 我爸爸有两辆旧自行车。"""
    owner, mood = somebody(draw), draw.one(["yes", "yes", "no", "ask"])
    thing, third = things(draw, POSSESSIONS, mood), owner.person == "he"
    pairs = {(owner.head, "have")} if owner.head else NONE
    do = "does" if third else "do"
    if mood == "ask":
        return finish(rule(f"{do} {{0}} have {{1}}", "{0}有{1}吗", owner, thing, pairs=pairs), "?")
    if mood == "no":
        return finish(rule(f"{{0}} {do} not have {{1}}", "{0}没有{1}", owner, thing, pairs=pairs))
    return finish(
        rule(f"{{0}} {'has' if third else 'have'} {{1}}", "{0}有{1}", owner, thing, pairs=pairs)
    )


def described(draw: Draw, thing: Phrase, mood: str) -> Phrase:
    """*… is very cheap* …很便宜, *… is not cheap* …不便宜, *… is red* …是红色的, *… is not red* …不是红色的."""
    adjective = draw.one([row for row in ADJECTIVES if thing.head in row.nouns])
    be, pairs = BE[thing.person], {(adjective.english, thing.head)}
    pattern = {
        (True, "yes"): ("", "是{1}的"),
        (True, "no"): ("not", "不是{1}的"),
        (False, "yes"): ("very", "很{1}"),
        (False, "no"): ("not", "不{1}"),
    }[adjective.is_colour, mood]
    word = Phrase(adjective.english, adjective.chinese)
    return rule(f"{{0}} {be} {pattern[0]} {{1}}", "{0}" + pattern[1], thing, word, pairs=pairs)


def known_thing(draw: Draw) -> Phrase:
    """*these cars* 这些汽车, *my car* 我的汽车: something that adjectives fit."""
    rows = [NOUNS[name] for row in ADJECTIVES for name in row.nouns]
    noun = draw.one([noun for noun in rows if noun.one and noun.name not in PEOPLE])
    return noun_phrase(draw, noun, "dp", adjective=0)


def description(draw: Draw) -> Phrase:
    """*these skirts are very cheap .* 这些裙子很便宜。 *my new coat is not black .* 我的新大衣不是黑色的。"""
    return finish(described(draw, known_thing(draw), draw.one(["yes", "yes", "no"])))


def comparison(draw: Draw) -> Phrase:
    """*this car is more expensive than my father 's car .* 这辆汽车比我爸爸的汽车贵。 *… is not as big as …* …没有…大。"""
    row = draw.one([row for row in ADJECTIVES if row.comparative])
    noun = draw.one([NOUNS[name] for name in row.nouns if NOUNS[name].one])
    kinds = draw.one(["dp", "pd"])
    one, other = (noun_phrase(draw, noun, kind, adjective=0) for kind in kinds)
    be, pairs = BE[one.person], {(row.english, noun.name)}
    english, chinese = draw.one(
        [(f"{row.comparative} than", "比"), (f"not as {row.english} as", "没有")]
    )
    return finish(
        rule(
            f"{{0}} {be} {english} {{1}}",
            f"{{0}}{chinese}{{1}}{row.chinese}",
            one,
            other,
            pairs=pairs,
        )
    )


def whereabouts(draw: Draw) -> Phrase:
    """*my keys are in the bag on the chair .* 我的钥匙在椅子上的包里。"""
    thing, where = noun_phrase(draw, NOUNS[draw.one(SMALL_THINGS)], "tdp"), spot(draw)
    be, mood = BE[thing.person], draw.one(["yes", "yes", "no", "ask"])
    if mood == "ask":
        return finish(rule(f"{be} {{0}} {{1}}", "{0}在{1}吗", thing, where), "?")
    if mood == "no":
        return finish(rule(f"{{0}} {be} not {{1}}", "{0}不在{1}", thing, where))
    return finish(rule(f"{{0}} {be} {{1}}", "{0}在{1}", thing, where))


def relative(draw: Draw) -> Phrase:
    """*the book that my mother bought yesterday is very expensive .* 我妈妈昨天买的书很贵。"""
    sense = draw.one(
        [row for row in SENSES if row.verb in ("read", "write", "draw", "buy", "make")]
    )
    noun = NOUNS[draw.one([name for name in sense.objects if NOUNS[name].one])]
    gap = Predicate(
        sense.verb,
        "",
        "",
        sense.chinese,
        "",
        frozenset({(sense.verb, noun.name)}),
        places=sense.places,
    )
    inner = replace(clause(draw, "past", do=gap, adjuncts=0.4, first=0), company=EMPTY).say()
    inner = replace(inner, chinese=inner.chinese.removesuffix("了"))
    thing = noun_phrase(draw, noun, "t", adjective=0)
    thing = replace(
        rule("{0} that {1}", "{1}的{0}", thing, inner), head=thing.head, person=thing.person
    )
    kind = draw.one(["like", "like", "spot", "adjective", "adjective"])
    if kind == "like":
        who, mood = somebody(draw), draw.one(["yes", "yes", "no"])
        auxiliary, verb = english_verb(who.person, "habit", "like", mood == "yes")
        if mood == "no":
            return finish(rule(f"{{0}} {auxiliary} not {verb} {{1}}", "{0}不喜欢{1}", who, thing))
        return finish(rule(f"{{0}} {verb} {{1}}", "{0}喜欢{1}", who, thing))
    if kind == "spot" and noun.name in SMALL_THINGS:
        return finish(rule(f"{{0}} {BE[thing.person]} {{1}}", "{0}在{1}", thing, spot(draw)))
    return finish(described(draw, thing, draw.one(["yes", "yes", "no"])))


def because(draw: Draw) -> Phrase | None:
    """*because he was busy , he did not read any books .* 因为他很忙，所以他没看书。 The reason may come last: …，因为他很忙。"""
    subject, (english, chinese, verbs) = somebody(draw), draw.one(STATES)
    if not subject.pronoun:
        return None
    appetite = verbs in (["eat"], ["drink"])
    aspect = draw.one(["past", "past", "want", "want" if appetite else "future"])
    again, reason_first = spoken(subject.pronoun), draw.chance(0.6)
    one, other = (subject, again) if reason_first else (again, subject)
    be = (WAS if aspect == "past" else BE)[one.person]
    state = rule(f"{{0}} {be} {english}", f"{{0}}很{chinese}", one)
    do, mood = None, "yes" if verbs else "no"  # who is tired or busy leaves something undone
    if appetite:
        do = transitive(draw, next(row for row in SENSES if row.verb in verbs), aspect, mood)
    elif verbs:
        do = intransitive(draw.one([row for row in ACTIONS if row.verb in verbs]))
    result = clause(draw, aspect, mood, other, do, timed=aspect != "want", first=0).say()
    if reason_first:
        return finish(rule("because {0} , {1}", "因为{0}，所以{1}", state, result))
    return finish(rule("{1} because {0}", "{1}，因为{0}", state, result))


def weather(draw: Draw) -> Phrase:
    """*if it rains tomorrow , we will not go to the park by bus .* 如果明天下雨，我们就不会坐公共汽车去公园。"""
    mood = draw.one(["yes", "no"])
    english, chinese = {"yes": ("does not rain", "不下雨"), "no": ("rains", "下雨")}[mood]
    sense = draw.one([row for row in SENSES if set(row.places) & set(OUTDOORS)])
    do = journey(draw) if draw.chance(0.4) else transitive(draw, sense, "future", mood)
    do = do and replace(do, places=[place for place in do.places if place in OUTDOORS])
    result = replace(
        clause(draw, "future", mood, do=do, adjuncts=1.0, timed=False, first=0),
        company=EMPTY,
        then=True,
    )
    when = Phrase(*draw.one(TIMES["future"]))
    return finish(
        rule(f"if it {english} {{0}} , {{1}}", f"如果{{0}}{chinese}，{{1}}", when, result.say())
    )


def report(draw: Draw) -> Phrase:
    """*the teacher says that the children are reading now .* 老师说…。 *she thinks that this film is very long .* 她觉得…。"""
    speaker, (verb, chinese) = (
        somebody(draw),
        draw.one([("say", "说"), ("know", "知道"), ("think", "觉得")]),
    )
    if verb == "think":
        content = described(draw, known_thing(draw), "yes")
    else:
        who = somebody(draw, but=speaker.head)
        content = clause(
            draw, draw.one(["past", "habit", "future", "now"]), "yes", who, first=0
        ).say()
    _, says = english_verb(speaker.person, "habit", verb, plain=True)
    pairs = {(speaker.head, verb)} if speaker.head else NONE
    return finish(
        rule(f"{{0}} {says} that {{1}}", f"{{0}}{chinese}{{1}}", speaker, content, pairs=pairs)
    )


def chain(draw: Draw, clauses: int) -> Phrase:
    """*my father bought a hat yesterday , but my mother did not buy any shoes .* 我爸爸昨天买了一顶帽子，但是我妈妈没买鞋。

    *and* is a comma; *but* 但是 denies, *and then* 然后 keeps the person, *and … also* 也 keeps the verb.
    """
    aspect = draw.one(["past", "past", "habit", "habit", "future", "want", "now"])
    last = clause(draw, aspect)
    said, links = last.say(), {"and", "but", "then", "also"}
    for _ in range(clauses - 1):
        unfit = {"also", "then"} if last.mood == "no" else set()
        unfit |= set() if last.predicate.sense and last.predicate.verb != "do" else {"also"}
        unfit |= set() if last.subject.pronoun and aspect != "now" else {"then"}
        link = draw.one(sorted(links - unfit))
        links.remove(link)
        mood, do = "no" if link == "but" and last.mood == "yes" else "yes", None
        if link == "also" and last.predicate.sense:
            do = transitive(draw, last.predicate.sense, aspect, mood)
        who = somebody(draw, () if link == "also" else PRONOUNS, but=last.subject.head)
        if link == "then" and last.subject.pronoun:
            who = spoken(last.subject.pronoun)
        last = replace(
            clause(draw, aspect, mood, who, do, timed=False, first=0), also=link == "also"
        )
        english, chinese = {"but": ("but", "但是"), "then": ("and then", "然后")}.get(
            link, ("and", "")
        )
        said = rule(f"{{0}} , {english} {{1}}", f"{{0}}，{chinese}{{1}}", said, last.say())
    return finish(said)


RULES = (
    [statement] * 20
    + [question] * 4
    + [wh_question] * 6
    + [request] * 2
    + [gift]
    + [there_is] * 3
    + [owning] * 2
    + [description]
    + [comparison] * 3
    + [whereabouts]
    + [relative] * 3
    + [because] * 3
    + [weather]
    + [report] * 3
)


def sentence(draw: Draw, chains: float, clauses: int) -> Phrase:
    """One sentence: with probability `chains` two to `clauses` clauses joined together, else any other rule."""
    said = None
    while not said:
        said = (
            chain(draw, draw.one(range(2, clauses + 1)))
            if draw.chance(chains)
            else draw.one(RULES)(draw)
        )
    return said
