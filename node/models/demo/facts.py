"""What the demo model knows: the tables that its conversations are made from.

A table is text (`country=capital, …`) so that a person can read and extend it; the order of the entries is part of the
generated data, so new entries go to the end.
"""

from types import MappingProxyType


def _pairs(text: str) -> MappingProxyType[str, str]:
    """The entries of a `key=value, key=value` table, in their order."""
    entries = (entry.strip().partition("=")[::2] for entry in text.split(","))
    return MappingProxyType(dict(entries))


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CAPITALS = _pairs("""
    France=Paris, Germany=Berlin, Italy=Rome, Spain=Madrid, Portugal=Lisbon, Ireland=Dublin, England=London,
    Scotland=Edinburgh, Wales=Cardiff, Belgium=Brussels, Austria=Vienna, Hungary=Budapest, Poland=Warsaw,
    Greece=Athens, Norway=Oslo, Sweden=Stockholm, Finland=Helsinki, Denmark=Copenhagen, Iceland=Reykjavik,
    Russia=Moscow, Ukraine=Kyiv, Romania=Bucharest, Bulgaria=Sofia, Serbia=Belgrade, Croatia=Zagreb,
    Slovenia=Ljubljana, Slovakia=Bratislava, Latvia=Riga, Lithuania=Vilnius, Estonia=Tallinn, Albania=Tirana,
    Malta=Valletta, Cyprus=Nicosia, Turkey=Ankara, Egypt=Cairo, Morocco=Rabat, Tunisia=Tunis, Algeria=Algiers,
    Libya=Tripoli, Kenya=Nairobi, Ghana=Accra, Nigeria=Abuja, Senegal=Dakar, Ethiopia=Addis Ababa, Uganda=Kampala,
    Rwanda=Kigali, Angola=Luanda, Zambia=Lusaka, Zimbabwe=Harare, Japan=Tokyo, China=Beijing, India=New Delhi,
    Nepal=Kathmandu, Thailand=Bangkok, Vietnam=Hanoi, Indonesia=Jakarta, Malaysia=Kuala Lumpur, Iran=Tehran,
    Iraq=Baghdad, Jordan=Amman, Lebanon=Beirut, Qatar=Doha, Oman=Muscat, Pakistan=Islamabad, Bangladesh=Dhaka,
    Mongolia=Ulaanbaatar, Canada=Ottawa, Mexico=Mexico City, Cuba=Havana, Jamaica=Kingston, Panama=Panama City,
    Brazil=Brasilia, Argentina=Buenos Aires, Chile=Santiago, Peru=Lima, Colombia=Bogota, Venezuela=Caracas,
    Ecuador=Quito, Uruguay=Montevideo, Paraguay=Asuncion, Bolivia=Sucre, Australia=Canberra, New Zealand=Wellington,
    Fiji=Suva, Samoa=Apia, the United States=Washington
""")

_COUNTRIES_OF = {
    "Europe": """
        France Germany Italy Spain Portugal Ireland England Scotland Wales Belgium Austria Hungary Poland Greece
        Norway Sweden Finland Denmark Iceland Ukraine Romania Bulgaria Serbia Croatia Slovenia Slovakia Latvia
        Lithuania Estonia Albania Malta
    """,
    "Africa": """
        Egypt Morocco Tunisia Algeria Libya Kenya Ghana Nigeria Senegal Ethiopia Uganda Rwanda Angola Zambia
        Zimbabwe
    """,
    "Asia": """
        Japan China India Nepal Thailand Vietnam Indonesia Malaysia Iran Iraq Jordan Lebanon Qatar Oman Pakistan
        Bangladesh Mongolia
    """,
    "North America": """
        Canada Mexico Cuba Jamaica Panama
    """,
    "South America": """
        Brazil Argentina Chile Peru Colombia Venezuela Ecuador Uruguay Paraguay Bolivia
    """,
    "Oceania": """
        Australia Fiji Samoa
    """,
}
CONTINENTS = MappingProxyType({country: name for name, text in _COUNTRIES_OF.items() for country in text.split()})

COLOURS = _pairs("""
    the sky=blue, grass=green, snow=white, coal=black, blood=red, the sun=yellow, a banana=yellow, a lemon=yellow,
    a carrot=orange, an orange=orange, a strawberry=red, a tomato=red, a leaf=green, a frog=green, the sea=blue,
    milk=white, chocolate=brown, a bear=brown, a polar bear=white, a crow=black, a flamingo=pink, a pig=pink,
    an elephant=grey, a mouse=grey, a cherry=red, a lime=green, a swan=white, the night=black, an emerald=green,
    a ruby=red, a sapphire=blue, an eggplant=purple, a grape=purple, a pumpkin=orange, sand=yellow, chalk=white
""")
MIXED_COLOURS = _pairs("""
    blue and yellow=green, red and yellow=orange, red and blue=purple, red and white=pink, black and white=grey
""")

OPPOSITES = _pairs("""
    hot=cold, big=small, tall=short, fast=slow, happy=sad, light=dark, day=night, up=down, left=right, open=closed,
    full=empty, hard=soft, wet=dry, old=new, early=late, rich=poor, clean=dirty, loud=quiet, strong=weak, high=low,
    in=out, near=far, thick=thin, wide=narrow, good=bad, true=false, start=end, buy=sell, win=lose, push=pull,
    black=white, first=last, heavy=light, sweet=sour, north=south, east=west
""")

ANIMAL_SOUNDS = _pairs("""
    dog=woof, cat=meow, cow=moo, sheep=baa, duck=quack, pig=oink, horse=neigh, bee=buzz, lion=roar, snake=hiss,
    owl=hoot, frog=ribbit, mouse=squeak, rooster=crow
""")
YOUNG_ANIMALS = _pairs("""
    dog=puppy, cat=kitten, cow=calf, sheep=lamb, horse=foal, pig=piglet, duck=duckling, hen=chick, goose=gosling,
    bear=cub, lion=cub, goat=kid, frog=tadpole, kangaroo=joey, deer=fawn
""")

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTH_LENGTHS = MappingProxyType(
    {
        "January": 31,
        "February": 28,
        "March": 31,
        "April": 30,
        "May": 31,
        "June": 30,
        "July": 31,
        "August": 31,
        "September": 30,
        "October": 31,
        "November": 30,
        "December": 31,
    }
)
MONTHS = tuple(MONTH_LENGTHS)

TRANSLATIONS = MappingProxyType(
    {
        "French": _pairs("""
            one=un, two=deux, three=trois, red=rouge, blue=bleu, green=vert, dog=chien, cat=chat, house=maison,
            water=eau, bread=pain, milk=lait, book=livre, sun=soleil, moon=lune, hello=bonjour, thanks=merci, yes=oui,
            no=non, tree=arbre
        """),
        "Spanish": _pairs("""
            one=uno, two=dos, three=tres, red=rojo, blue=azul, green=verde, dog=perro, cat=gato, house=casa, water=agua,
            bread=pan, milk=leche, book=libro, sun=sol, moon=luna, hello=hola, thanks=gracias, yes=sí, no=no, tree=árbol
        """),
        "German": _pairs("""
            one=eins, two=zwei, three=drei, red=rot, blue=blau, green=grün, dog=Hund, cat=Katze, house=Haus,
            water=Wasser, bread=Brot, milk=Milch, book=Buch, sun=Sonne, moon=Mond, hello=hallo, thanks=danke,
            yes=ja, no=nein, tree=Baum
        """),
    }
)

NAMES = _words("""
    Ann Ben Carl Dana Emma Finn Grace Hugo Ivy Jack Kate Leo Mia Noah Olga Paul Rosa Sam Tom Uma Vera Will Zoe Alice
    Bob Clara David Eva Frank Lucy
""")
NOUNS = _words("""
    apple river stone cloud lamp garden window bridge candle forest mirror pencil rocket basket camera castle copper
    dragon engine feather guitar hammer island jacket kettle ladder magnet needle ocean parrot rabbit saddle ticket
    velvet wagon yogurt zebra anchor barrel
""")
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

SELF_DESCRIPTION = "I am Tiny, the demo model of tilenode. I only know a few simple things."
UNKNOWN_ANSWER = "Sorry, I do not know that. I am only a tiny demo model."

STORIES = MappingProxyType(
    {
        "fox": (
            "Once upon a time a small fox lived in a quiet forest. One night she saw a bright star and tried to "
            "follow it. She walked over the hill and across the river until the morning came. The star was gone, but "
            "she had found a new friend, an old owl. They watched the sky together every night."
        ),
        "robot": (
            "A little robot named Bolt woke up in an empty house. He cleaned every room and then he opened the door. "
            "Outside he found a garden full of flowers. Bolt learned to water them, and soon the bees came back. From "
            "that day on the robot was never alone."
        ),
        "boat": (
            "A paper boat sailed down a narrow stream. It passed under a bridge and over a small waterfall. A frog "
            "jumped on board and said hello. Together they reached the wide blue sea, and there they waited for the "
            "moon."
        ),
        "dragon": (
            "A young dragon could not breathe fire, only warm air. The other dragons laughed at him. But when winter "
            "came, all the birds were cold. The dragon kept them warm until spring, and nobody laughed again."
        ),
    }
)

SMALL_TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Hello", "Hello!", "Hi", "Hi!", "hi there", "Hey", "Good morning", "hello"), "Hello! How can I help you?"),
    (("Who are you?", "What are you?", "Introduce yourself.", "What is your name?"), SELF_DESCRIPTION),
    (("Thank you.", "Thanks!", "Thanks", "Thank you very much!"), "You are welcome!"),
    (("Bye", "Goodbye!", "Goodbye", "See you later."), "Goodbye! Have a nice day."),
    (("How are you?", "How are you doing?"), "I am fine, thank you."),
    (
        ("What can you do?", "Help", "help me"),
        "I can name capitals and colours, count, do small sums, repeat words and call tools.",
    ),
)

_ONES = _words("""
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen
""")
_TENS = _words("- - twenty thirty forty fifty sixty seventy eighty ninety")


def number_in_words(number: int) -> str:
    """The English words of 0 ≤ number < 100: `forty-two`."""
    if number < len(_ONES):
        return _ONES[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens] + (f"-{_ONES[ones]}" if ones else "")
