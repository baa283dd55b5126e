"""Templates of each relation: statements, questions and yes-or-no questions."""

from dataclasses import dataclass

MASS = frozenset(
    (
        "spinach",
        "pepper",
        "chilli",
        "ginger",
        "cinnamon",
        "honey",
        "chocolate",
        "bread",
        "butter",
        "cheese",
        "yoghurt",
        "milk",
        "coffee",
        "tea",
        "lemonade",
        "beer",
        "salt",
        "sugar",
        "rice",
        "wheat",
        "bacon",
        "salmon",
        "vinegar",
        "mustard",
    )
)
"""Names that take no article."""


@dataclass(frozen=True)
class Wording:
    """Templates of one relation: {a} is the subject with its article, {s} without, {A} capitalised,
    {v} the value, {w} the value with its article, {n} a person's name."""

    statements: tuple[str, ...]
    listing: str
    """Start of a list of all subjects with one value; empty: no list is written."""
    ask: str
    """Question whose answer is the value."""
    reverse: str
    """Question whose answer is the subject; empty: no such question is written."""
    check: str
    """Question whose answer is true or false."""


def with_article(name: str) -> str:
    """Put the article before a name: "an apple", "a cup", "milk"."""
    if name in MASS:
        return name
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


WORDINGS = {
    "kind": Wording(
        ("{A} is {w}.", "{A} belongs to this kind: {v}.", "One example of {w} is {a}."),
        "Each of these is {w}:",
        "What kind of thing is {a}?",
        "Which of these is {w}?",
        "is {a} {w}",
    ),
    "material": Wording(
        (
            "{A} is made of {v}.",
            "People make {a} from {v}.",
            "The material of {a} is {v}.",
            "Out of {v} one can make {a}.",
        ),
        "These are made of {v}:",
        "What is {a} made of?",
        "Which of these is made of {v}?",
        "is {a} made of {v}",
    ),
    "place": Wording(
        (
            "{A} is kept in this place: {v}.",
            "Whoever needs {a} looks in the {v}.",
            "The place of {a} is the {v}.",
            "In the {v} there is {a}.",
        ),
        "In the {v} you find:",
        "Where would you look for {a}?",
        "Which of these would you find in the {v}?",
        "would you look for {a} in the {v}",
    ),
    "use": Wording(
        (
            "People use {a} to {v}.",
            "{A} is there to {v}.",
            "To {v}, one takes {a}.",
            "Whoever wants to {v} needs {a}.",
        ),
        "",
        "What do people use {a} for?",
        "What would somebody need to {v}?",
        "do people use {a} to {v}",
    ),
    "look": Wording(
        ("As a material, {s} is {v}.", "One feels or sees that {s} is {v}."),
        "These materials are {v}:",
        "What is {s} like?",
        "Which material is {v}?",
        "is {s} as a material {v}",
    ),
    "in water": Wording(
        ("A piece of {s} {v}.", "Of {s} it is known that it {v}."),
        "Of these one knows what happens, each {v}:",
        "What does a piece of {s} do in water?",
        "A piece of which material {v}?",
        "is it so that a piece of {s} {v}",
    ),
    "in fire": Wording(
        ("In a fire a piece of {s} {v}.", "Near flames, {s} {v}."),
        "Near flames each of these {v}:",
        "What does a piece of {s} do in a fire?",
        "Which material {v}?",
        "is it so that near flames {s} {v}",
    ),
    "source": Wording(
        ("People get {s} from {v}.", "The source of {s} is {v}.", "From {v} comes {s}."),
        "From {v} people get:",
        "Where do people get {s} from?",
        "Which material comes from {v}?",
        "do people get {s} from {v}",
    ),
    "food kind": Wording(
        ("{A} is {w}.", "In a shop {a} stands under this sign: {v}.", "One sort of {v} is {s}."),
        "Each of these is {w}:",
        "What kind of food is {a}?",
        "Which of these foods is {w}?",
        "is {a} {w}",
    ),
    "taste": Wording(
        ("{A} tastes {v}.", "The taste of {a} is {v}.", "Whoever bites into {s} finds it {v}."),
        "These taste {v}:",
        "How does {a} taste?",
        "Which of these tastes {v}?",
        "does {a} taste {v}",
    ),
    "colour": Wording(
        ("The colour of {a} is {v}.", "{A} is {v} to look at.", "One paints {a} in {v}."),
        "These are {v} to look at:",
        "Which colour has {a}?",
        "Which of these foods is {v} to look at?",
        "is {a} {v} to look at",
    ),
    "origin": Wording(
        ("{A} {v}.", "Everybody knows: {a} {v}.", "Of all foods, {s} {v}."),
        "Each of these {v}:",
        "Where does {a} come from?",
        "Which food {v}?",
        "is it so that {a} {v}",
    ),
    "class": Wording(
        ("{A} is {w}.", "Zoologists count {a} among this class: {v}.", "One {v} is the {s}."),
        "Each of these animals is {w}:",
        "To which class of animals belongs {a}?",
        "Which of these animals is {w}?",
        "is {a} {w}",
    ),
    "home": Wording(
        (
            "The home of {a} is the {v}.",
            "{A} lives in this place: {v}.",
            "Whoever wants to see {a} goes to the {v}.",
            "In the {v} lives {a}.",
        ),
        "In the {v} live:",
        "Where does {a} live?",
        "Which of these animals lives in the {v}?",
        "is the {v} the home of {a}",
    ),
    "prey": Wording(
        ("{A} eats {v}.", "The food of {a} is {v}.", "With {v} one can feed {a}."),
        "Animals that eat {v}:",
        "What does {a} eat?",
        "Which of these animals eats {v}?",
        "does {a} eat {v}",
    ),
    "young": Wording(
        ("The young of {a} is called {w}.", "{W} grows up to be {a}.", "{A} was once {w}."),
        "{W} grows up to be one of these:",
        "What is the young of {a} called?",
        "Which of these animals was once {w}?",
        "is the young of {a} called {w}",
    ),
    "sound": Wording(
        ("{A} {v}.", "At night one hears it: the {s} {v}.", "It is the {s} that {v}."),
        "Each of these animals {v}:",
        "What does {a} do to be heard?",
        "Which of these animals {v}?",
        "is it so that {a} {v}",
    ),
    "workplace": Wording(
        ("{A} works here: {v}.", "The workplace of {a} is the {v}.", "At the {v} works {a}."),
        "At the {v} work:",
        "Where does {a} work?",
        "Who works at the {v}?",
        "is the {v} the workplace of {a}",
    ),
    "equipment": Wording(
        ("{A} works with {w}.", "{W} belongs to {a}.", "Without {w}, {a} cannot work."),
        "",
        "What does {a} work with?",
        "Who works with {w}?",
        "does {a} work with {w}",
    ),
    "work": Wording(
        ("{A} {v}.", "All day long {a} {v}.", "Somebody who {v} is {a}.", "It is {a} who {v}."),
        "",
        "What does {a} do all day?",
        "Who {v}?",
        "is it so that {a} {v}",
    ),
    "effect": Wording(
        (
            "If {s}, {v}.",
            "When {s}, then {v}.",
            "Suppose that {s}. Then {v}.",
            "Why does it happen that {v}? Because {s}.",
        ),
        "",
        "If {s}, what happens then?",
        "What was the reason, if {v}?",
        "if {s}, is it so that {v}",
    ),
    "feeling": Wording(
        ("{n} {s}. {n} felt {v}.", "{n} felt {v}, because {n} {s}.", "Whoever {s} feels {v}."),
        "",
        "{n} {s}. How would {n} feel afterwards?",
        "",
        "would somebody feel {v} who {s}",
    ),
    "before": Wording(
        ("{n} {s}. Before that, {n} had to {v}.", "First {n} had to {v}; then {n} {s}."),
        "",
        "{n} {s}. What does {n} need to do before this?",
        "",
        "did somebody have to {v} before, who {s}",
    ),
    "next": Wording(
        ("{n} {s}. Next, {n} wanted to {v}.", "After {n} {s}, {n} decided to {v}."),
        "",
        "{n} {s}. What will {n} want to do next?",
        "",
        "would somebody want to {v} next, who {s}",
    ),
    "means": Wording(
        (
            "To {s}, {way}.",
            "How does one {s}? One should {way}.",
            "Whoever wants to {s} should {way}.",
            "With {v} one can {s}.",
        ),
        "",
        "How does one {s}?",
        "",
        "does one {s} with {v}",
    ),
    "heavier": Wording(
        ("{A} is heavier than {w}.", "{W} is lighter than {a}.", "{A} weighs more than {w}."),
        "",
        "",
        "",
        "is {a} heavier than {w}",
    ),
    "longer": Wording(
        ("{A} is longer than {w}.", "{W} is shorter than {a}.", "{A} takes more room than {w}."),
        "",
        "",
        "",
        "is {a} longer than {w}",
    ),
}
"""The templates by relation."""
