"""The words of the toy corpus, English beside Chinese, and what fits with what. Knows no word order.

Every table is a text with one entry a line. Columns are cut at blanks; `_` stands for a blank inside a column, `-` for
"there is none", and `|` separates what an entry may be combined with. A word that stands in two rows of a table is
ambiguous, and the words behind `|` decide: one *wears* (穿) a shirt but *wears* (戴) a hat.
"""

from __future__ import annotations

from typing import NamedTuple


def _rows(table: str) -> list[tuple[list[str], list[list[str]]]]:
    """Each line as (its columns, the word lists behind each `|`)."""
    cells = [[part.split() for part in line.split("|")] for line in table.strip().splitlines()]
    clean = [
        [[word.replace("_", " ").strip("-") for word in part] for part in line] for line in cells
    ]
    return [(columns, lists) for columns, *lists in clean]


# --------------------------------------------------------------------------------------------------------------- nouns


class Noun(NamedTuple):
    """A noun, its measure word, and the English container it is counted in, if any (*two cups of tea*)."""

    one: str
    many: str
    measure: str
    chinese: str
    container: str = ""
    containers: str = ""

    @property
    def name(self) -> str:
        return self.one or self.many


# one, many (or uncountable), measure word, Chinese, container
NOUNS = {
    noun.name: noun
    for noun in (
        Noun(*columns)
        for columns, _ in _rows("""
father      -            -   爸爸
mother      -            -   妈妈
grandfather -            -   爷爷
grandmother -            -   奶奶
teacher     teachers     位  老师
doctor      doctors      位  医生
student     students     个  学生
child       children     个  孩子
friend      friends      个  朋友
boy         boys         个  男孩
girl        girls        个  女孩
cat         cats         只  猫
dog         dogs         只  狗
bird        birds        只  鸟
horse       horses       匹  马
fish        fish         条  鱼
apple       apples       个  苹果
banana      bananas      根  香蕉
orange      oranges      个  橙子
pear        pears        个  梨
cake        cakes        个  蛋糕
-           tea          杯  茶      cup   cups
-           coffee       杯  咖啡    cup   cups
-           milk         杯  牛奶    glass glasses
-           soup         碗  汤      bowl  bowls
-           noodles      碗  面条    bowl  bowls
book        books        本  书
newspaper   newspapers   份  报纸
letter      letters      封  信
story       stories      个  故事
film        films        部  电影
pen         pens         支  笔
key         keys         把  钥匙
umbrella    umbrellas    把  雨伞
chair       chairs       把  椅子
table       tables       张  桌子
box         boxes        个  盒子
bag         bags         个  包
cup         cups         个  杯子
phone       phones       部  手机
computer    computers    台  电脑
lamp        lamps        盏  灯
door        doors        扇  门
house       houses       栋  房子
car         cars         辆  汽车
bicycle     bicycles     辆  自行车
flower      flowers      朵  花
shirt       shirts       件  衬衫
coat        coats        件  大衣
skirt       skirts       条  裙子
hat         hats         顶  帽子
scarf       scarves      条  围巾
-           shoes        双  鞋      pair  pairs
-           glasses      副  眼镜    pair  pairs
-           homework     -   作业
-           television   -   电视
-           football     -   足球
-           tennis       -   网球
-           basketball   -   篮球
-           chess        -   象棋
-           the_piano    -   钢琴
-           the_guitar   -   吉他
""")
    )
}
KIN = "father mother grandfather grandmother".split()
PEOPLE = {  # and the determiners they take: the, this, my
    "teacher": "tddp",
    "doctor": "tdd",
    "student": "dp",
    "child": "ttdp",
    "friend": "p",
    "boy": "d",
    "girl": "d",
}
GROWN_UPS = [*KIN, "teacher", "doctor"]  # have no homework


class Pronoun(NamedTuple):
    """A person: subject form, object form, possessive, Chinese."""

    subject: str
    object: str
    possessive: str
    chinese: str


PRONOUNS = [
    Pronoun(*columns)
    for columns, _ in _rows("""
i    me   my    我
you  you  your  你
he   him  his   他
she  her  her   她
we   us   our   我们
they them their 他们
""")
]


# ---------------------------------------------------------------------------------------------------------- adjectives


class Adjective(NamedTuple):
    """An adjective, how it compares, and the nouns it fits. `before` is its Chinese form before a noun."""

    english: str
    comparative: str
    before: str
    chinese: str
    nouns: list[str]

    @property
    def is_colour(self) -> bool:
        """Colours do not compare and are said with 是…的, not with 很."""
        return self.chinese.endswith("色")


_GOODS = "book pen umbrella chair box bag cup phone lamp car bicycle flower shirt coat skirt hat scarf shoes"
_SIZED = "box bag cup lamp flower"
# English, comparative, Chinese before a noun, Chinese | nouns. One syllable stands bare (新书) or takes 很…的 (很贵的书).
ADJECTIVES = [
    Adjective(*columns, nouns)
    for columns, (nouns,) in _rows(f"""
red         -                红色的     红色   | apple {_GOODS}
black       -                黑色的     黑色   | cat dog horse {_GOODS.replace(" flower", "")}
white       -                白色的     白色   | cat dog horse bird house table {_GOODS}
blue        -                蓝色的     蓝色   | bird house door {_GOODS}
green       -                绿色的     绿色   | apple bird door {_GOODS.replace(" flower", "")}
pink        -                粉红色的   粉红色 | {_GOODS.replace(" car", "")}
new         newer            新         新     | key table computer house {_GOODS.replace(" flower", "")}
old         older            旧         旧     | newspaper key table computer {_GOODS.replace(" flower", "")}
old         -                老         老     | doctor dog cat horse
big         bigger           大         大     | fish apple orange pear cake table house dog bird umbrella {_SIZED}
small       smaller          小         小     | fish apple banana table house dog cat bird chair car {_SIZED}
young       -                年轻的     年轻   | teacher doctor
long        longer           很长的     长     | letter story film coat skirt scarf table
short       shorter          很短的     短     | letter story film coat skirt scarf
short       shorter          很矮的     矮     | table chair
heavy       heavier          很重的     重     | box bag table computer bicycle
cheap       cheaper          便宜的     便宜   | pear banana house computer {_GOODS}
expensive   more_expensive   很贵的     贵     | house computer cake table {_GOODS}
beautiful   more_beautiful   漂亮的     漂亮   | house bird horse cat {_GOODS.replace(" phone", "")}
wonderful   more_wonderful   精彩的     精彩   | book film story
delicious   -                好吃的     好吃   | fish apple banana orange pear cake noodles
delicious   -                好喝的     好喝   | tea coffee milk soup
hot         -                热         热     | tea coffee milk soup
""")
]


# --------------------------------------------------------------------------------------------------------------- verbs


class Verb(NamedTuple):
    """The English forms. Chinese verbs have one form only; 了, 过 and 着 are said by the grammar."""

    base: str
    third: str
    past: str
    participle: str
    ing: str


# base, third person, past, past participle (of verbs said in the perfect), -ing form (of verbs said in the progressive)
VERBS = {
    verb.base: verb
    for verb in (
        Verb(*columns)
        for columns, _ in _rows("""
read    reads    read     read     reading
write   writes   wrote    -        writing
draw    draws    drew     -        drawing
watch   watches  watched  watched  watching
buy     buys     bought   -        buying
eat     eats     ate      -        eating
drink   drinks   drank    -        drinking
make    makes    made     -        making
wash    washes   washed   -        washing
wear    wears    wore     worn     wearing
ride    rides    rode     ridden   riding
drive   drives   drove    driven   driving
play    plays    played   -        playing
do      does     did      -        doing
swim    swims    swam     -        swimming
sing    sings    sang     -        singing
dance   dances   danced   -        dancing
sleep   sleeps   slept    -        sleeping
go      goes     went     -        -
give    gives    gave     -        -
put     puts     put      -        -
take    takes    took     -        -
open    opens    opened   -        -
close   closes   closed   -        -
finish  finishes finished -        -
have    has      had      -        having
like    likes    liked    -        -
want    wants    wanted   -        -
say     says     said     -        -
know    knows    knew     -        -
think   thinks   thought  -        -
""")
    )
}


class Sense(NamedTuple):
    """A verb in one meaning: its Chinese, its objects, the kinds of determiner they may take, and where it is done.

    Kinds: a one · n two to four · m more · d this, these · s this · p my · o my, one thing only · b none (*books*).
    An `r` says that the same object may be met again (*reads this book every day*, but not *buys this book every day*).
    """

    verb: str
    chinese: str
    determiners: str
    objects: list[str]
    places: list[str]


_FOOD = "apple banana orange pear cake fish"
_DRINKS = "tea coffee milk"
_CLOTHES = "shirt coat skirt hat scarf shoes glasses"
_WARES = "book newspaper pen umbrella chair table lamp cup bag phone computer bicycle flower"
# verb, Chinese, determiners | objects | places
SENSES = [
    Sense(*columns, *lists)
    for columns, lists in _rows(f"""
read   看   andpbr| book newspaper letter story                         | library home classroom park office garden
write  写   anb   | letter story                                        | library home classroom office park
draw   画   andb  | cat dog bird horse flower house                     | home classroom park garden school
watch  看   andb  | film                                                | home cinema school
watch  看   b     | television                                          | home office
buy    买   anmdb | {_FOOD} {_DRINKS} {_CLOTHES} {_WARES}               | shop supermarket beijing
eat    吃   anb   | {_FOOD} noodles                                     | home kitchen restaurant school park office
drink  喝   anb   | {_DRINKS} soup                                      | home kitchen restaurant office
make   做   anb   | cake noodles soup                                   | home kitchen restaurant
wash   洗   andpbr| cup shirt skirt car bicycle                         | home garden
wear   穿   asobr | shirt coat shoes                                    |
wear   戴   asobr | hat scarf glasses                                   |
ride   骑   sor   | bicycle horse                                       | park school
drive  开   sor   | car                                                 | beijing shanghai
play   踢   b     | football                                            | park school
play   打   b     | basketball tennis                                   | park school
play   下   b     | chess                                               | park home library garden
play   弹   b     | the_piano the_guitar                                | home school classroom restaurant
do     做   b     | homework                                            | library home classroom school
""")
]


class Action(NamedTuple):
    """A verb without an object, and where it is done."""

    verb: str
    chinese: str
    places: list[str]


ACTIONS = [
    Action(*columns, places)
    for columns, (places,) in _rows("""
swim  游泳 | school beijing shanghai
sing  唱歌 | park home school restaurant classroom
dance 跳舞 | park home school restaurant
sleep 睡觉 | home office
""")
]


class Disposal(NamedTuple):
    """A verb that does something to a thing that both speakers know: in Chinese 把 brings the thing before the verb."""

    verb: str
    chinese: str
    goal: str  # what follows in English: a spot, a place, a person, or nothing
    objects: list[str]


DISPOSALS = [
    Disposal(*columns, objects)
    for columns, (objects,) in _rows("""
put    放在   spot   | book newspaper letter pen key umbrella cup phone hat scarf apple cake
take   带到   place  | book computer umbrella dog child
give   送给   person | book flower scarf hat bicycle cake dog
open   打开   -      | door box bag letter
close  关上   -      | door box
finish 看完   -      | book newspaper
finish 写完   -      | letter
finish 吃完   -      | apple banana orange pear cake noodles
finish 喝完   -      | tea coffee milk soup
finish 做完   -      | homework
""")
]


# ------------------------------------------------------------------------------------------------------ place and time


class Place(NamedTuple):
    """Where something happens, and its name as a destination."""

    preposition: str
    name: str
    chinese: str
    inside: str  # 里 after rooms and open spaces, nothing after institutions and towns

    @property
    def english(self) -> str:
        return f"{self.preposition} {self.name}"

    @property
    def where(self) -> str:
        return self.chinese + self.inside


PLACES = {
    place.name.removeprefix("the "): place
    for place in (
        Place(*columns)
        for columns, _ in _rows("""
in the_library     图书馆 -
in the_classroom   教室   里
in the_park        公园   里
in the_garden      花园   里
in the_kitchen     厨房   里
in the_shop        商店   -
in the_supermarket 超市   -
in the_restaurant  饭馆   -
in the_office      办公室 -
in the_hospital    医院   -
in the_cinema      电影院 -
at school          学校   -
at home            家     里
in beijing         北京   -
in shanghai        上海   -
""")
    )
}
ROOMS = "classroom kitchen office garden".split()
OUTDOORS = "park garden".split()
DESTINATIONS = (
    "library park shop supermarket restaurant hospital cinema school beijing shanghai".split()
)


class Spot(NamedTuple):
    """A place on, in or under a thing."""

    preposition: str
    thing: str
    side: str


SPOTS = [
    Spot(*columns)
    for columns, _ in _rows("""
on    table 上
on    chair 上
in    box   里
in    bag   里
under table 下面
""")
]
SMALL_THINGS = (
    "book newspaper letter pen key umbrella cup phone hat scarf apple banana orange pear".split()
)
FURNITURE = ["table", "chair"]
PETS = ["cat", "dog", "bird"]
POSSESSIONS = "cat dog horse shoes glasses book bicycle car house computer phone umbrella hat coat bag lamp".split()

VEHICLES = [
    (english, chinese, names)
    for (english, chinese), (names,) in _rows("""
by_bus     坐公共汽车 | library park shop supermarket restaurant hospital cinema school
by_train   坐火车     | beijing shanghai
by_car     开车       | library park supermarket restaurant hospital cinema beijing shanghai
by_bicycle 骑自行车   | library park shop supermarket cinema school
""")
]

TIMES = {  # when each aspect happens: English, Chinese
    "habit": [("every day", "每天"), ("every morning", "每天早上"), ("on sundays", "星期天")],
    "past": [
        ("yesterday", "昨天"),
        ("yesterday afternoon", "昨天下午"),
        ("last night", "昨天晚上"),
        ("last week", "上个星期"),
    ],
    "future": [("tomorrow", "明天"), ("tomorrow morning", "明天早上"), ("next week", "下个星期")],
    "want": [("tomorrow", "明天"), ("next week", "下个星期")],
    "now": [("now", "现在")],
    "like": [],
    "perfect": [],
}

# -------------------------------------------------------------------------------------------------- determiners, states

DETERMINERS = {  # kind: English, Chinese. 一, 两 … and 这, 那 are followed by the measure word; the others are not
    "a": [("a", "一")],
    "n": [("two", "两"), ("three", "三"), ("four", "四")],
    "m": [
        ("ten", "十"),
        ("twelve", "十二"),
        ("twenty", "二十"),
        ("some", "一些"),
        ("many", "很多"),
    ],
    "s": [("this", "这"), ("that", "那")],
    "q": [("how many", "几")],
    "w": [("which", "哪")],
    "d": [("this", "这"), ("that", "那"), ("these", "这些"), ("those", "那些")],
}
UNMEASURED = {"一些", "很多", "这些", "那些"}

STATES = [  # English, Chinese, and what one does then; nothing if there is no time for anything
    ("tired", "累", ["sleep"]),
    ("busy", "忙", []),
    ("happy", "高兴", ["sing", "dance"]),
    ("hungry", "饿", ["eat"]),
    ("thirsty", "渴", ["drink"]),
]
