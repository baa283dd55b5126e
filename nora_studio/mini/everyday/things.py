"""Everyday objects, materials and food as tables; a row is a thing, a column a kind of fact."""

from dataclasses import dataclass

OBJECTS = """
hammer | tool | steel | workshop | drive nails into wood | 30 | 600
saw | tool | iron | shed | cut boards | 50 | 700
screwdriver | tool | chrome | garage | turn screws | 20 | 150
wrench | tool | titanium | garage | loosen bolts | 25 | 500
ladder | tool | aluminium | barn | climb onto a roof | 300 | 9000
shovel | tool | steel | shed | dig a hole | 120 | 2000
rake | tool | bamboo | garden | gather fallen leaves | 150 | 1100
bucket | container | plastic | barn | carry water | 35 | 800
barrel | container | oak | cellar | keep wine | 95 | 40000
basket | container | straw | market | carry eggs | 40 | 500
bottle | container | glass | kitchen | hold juice | 28 | 450
jar | container | glass | pantry | keep jam | 14 | 300
box | container | cardboard | attic | store old letters | 45 | 350
suitcase | container | nylon | station | pack clothes for a journey | 70 | 3200
backpack | container | canvas | school | carry books | 50 | 900
wallet | container | leather | pocket | keep money | 11 | 90
cup | dish | porcelain | kitchen | drink tea | 9 | 250
plate | dish | porcelain | dining room | serve dinner | 26 | 600
bowl | dish | clay | kitchen | eat soup | 16 | 500
teapot | dish | silver | dining room | brew tea | 22 | 900
spoon | cutlery | silver | drawer | stir coffee | 18 | 45
fork | cutlery | steel | drawer | pick up noodles | 19 | 50
knife | cutlery | steel | kitchen | slice bread | 24 | 90
pan | cookware | iron | kitchen | fry eggs | 45 | 1500
pot | cookware | copper | kitchen | boil potatoes | 30 | 2200
kettle | cookware | chrome | kitchen | heat water | 25 | 1200
oven | machine | steel | kitchen | bake bread | 60 | 35000
fridge | machine | aluminium | kitchen | keep food cold | 170 | 65000
toaster | machine | chrome | kitchen | brown slices of bread | 30 | 1600
blender | machine | plastic | kitchen | make smoothies | 40 | 2800
vacuum cleaner | machine | plastic | closet | clean the carpet | 80 | 5500
washing machine | machine | steel | bathroom | wash clothes | 85 | 68000
sewing machine | machine | iron | workshop | join pieces of cloth | 40 | 7500
lawn mower | machine | steel | shed | cut grass | 130 | 28000
chair | furniture | beech | dining room | sit at a table | 90 | 4500
table | furniture | oak | dining room | eat meals together | 160 | 32000
bed | furniture | pine | bedroom | sleep at night | 200 | 48000
sofa | furniture | leather | living room | watch films together | 210 | 55000
shelf | furniture | pine | library | hold books | 180 | 20000
wardrobe | furniture | oak | bedroom | hang up coats | 200 | 72000
desk | furniture | pine | office | write letters | 140 | 27000
lamp | light | brass | bedroom | read in the dark | 45 | 1400
candle | light | wax | church | give light without power | 20 | 150
torch | light | plastic | tent | find the way at night | 18 | 220
mirror | furniture | glass | bathroom | see one's own face | 100 | 8000
clock | instrument | brass | living room | tell the time | 30 | 900
thermometer | instrument | glass | hospital | measure fever | 12 | 20
scale | instrument | steel | market | weigh fruit | 30 | 1800
compass | instrument | brass | ship | find north | 7 | 70
telescope | instrument | aluminium | observatory | look at stars | 110 | 6500
microscope | instrument | steel | laboratory | look at germs | 40 | 4200
ruler | instrument | plastic | school | draw straight lines | 30 | 25
calculator | instrument | plastic | office | add up numbers | 14 | 110
pencil | writing thing | cedar | school | sketch a picture | 17 | 6
pen | writing thing | plastic | office | sign a paper | 14 | 12
piece of chalk | writing thing | limestone | school | write on the board | 8 | 10
notebook | writing thing | paper | school | take notes | 25 | 240
envelope | writing thing | paper | post office | send a letter | 22 | 5
eraser | writing thing | rubber | school | remove pencil marks | 5 | 18
pair of scissors | tool | steel | drawer | cut paper | 20 | 110
needle | tool | steel | sewing box | sew on a button | 4 | 1
broom | tool | straw | closet | sweep the floor | 130 | 750
mop | tool | cotton | closet | wipe up spilled water | 130 | 1000
sponge | tool | foam | sink | scrub dishes | 11 | 15
towel | cloth thing | cotton | bathroom | dry wet hair | 120 | 420
blanket | cloth thing | wool | bedroom | keep warm in bed | 200 | 1300
pillow | cloth thing | feathers | bedroom | rest the head | 70 | 700
curtain | cloth thing | velvet | living room | keep out sunlight | 220 | 1900
tent | cloth thing | nylon | campsite | sleep in the wild | 240 | 3800
umbrella | cloth thing | nylon | hall | stay dry in the rain | 95 | 400
scarf | clothing | wool | wardrobe | warm the neck | 160 | 190
pair of gloves | clothing | leather | coat pocket | protect the hands | 24 | 120
pair of boots | clothing | rubber | hall | walk through mud | 35 | 1500
hat | clothing | felt | hall | shade the face | 35 | 130
raincoat | clothing | nylon | hall | walk through a storm | 110 | 650
helmet | clothing | plastic | garage | protect the head | 30 | 380
apron | clothing | cotton | kitchen | keep clothes clean while cooking | 85 | 200
bicycle | vehicle | aluminium | garage | ride to school | 175 | 13000
car | vehicle | steel | garage | drive to another town | 450 | 1400000
train | vehicle | steel | station | carry many people over land | 20000 | 400000000
boat | vehicle | pine | harbour | cross a lake | 500 | 300000
ship | vehicle | steel | harbour | carry goods over the ocean | 18000 | 90000000
plane | vehicle | aluminium | airport | fly over the sea | 4000 | 45000000
sled | vehicle | beech | hill | slide down the snow | 110 | 5000
truck | vehicle | steel | factory | carry heavy loads | 900 | 9000000
tractor | vehicle | iron | farm | pull a plough | 400 | 4000000
ball | toy | rubber | playground | play a game of catch | 22 | 400
kite | toy | paper | meadow | play with the wind | 90 | 100
doll | toy | porcelain | nursery | play family | 35 | 400
puzzle | toy | cardboard | nursery | put a picture together | 40 | 600
marble | toy | glass | playground | roll along the ground | 2 | 5
guitar | instrument of music | cedar | stage | play a song with strings | 100 | 1900
piano | instrument of music | spruce | concert hall | play a song with keys | 150 | 250000
drum | instrument of music | goatskin | stage | beat the rhythm | 45 | 4000
flute | instrument of music | silver | stage | play a song with breath | 66 | 440
violin | instrument of music | maple | concert hall | play a song with a bow | 60 | 430
rope | tool | hemp | ship | tie up a boat | 1000 | 2600
net | tool | hemp | harbour | catch fish | 600 | 5200
fishing rod | tool | bamboo | lake | hook a trout | 240 | 350
anchor | tool | iron | ship | hold a ship in place | 150 | 120000
axe | tool | steel | forest | chop firewood | 70 | 1700
key | tool | brass | pocket | open a lock | 6 | 12
lock | tool | brass | gate | keep a door shut | 7 | 250
coin | small thing | copper | pocket | pay for sweets | 2 | 6
ring | small thing | gold | finger | show that one is married | 2 | 8
button | small thing | horn | shirt | close a shirt | 1 | 2
brick | building thing | clay | building site | build a wall | 24 | 3400
window | building thing | glass | wall | let in daylight | 120 | 22000
door | building thing | oak | wall | close a room | 200 | 38000
pipe | building thing | copper | cellar | bring water to a tap | 300 | 3000
bandage | cloth thing | cotton | hospital | cover a wound | 50 | 12
syringe | instrument | plastic | hospital | give a vaccine | 12 | 9
camera | machine | titanium | studio | take photographs | 14 | 750
phone | machine | glass | pocket | call a friend | 15 | 180
radio | machine | plastic | kitchen | hear the news | 28 | 1700
computer | machine | aluminium | office | write programs | 45 | 5200
printer | machine | plastic | office | put text on paper | 42 | 7200
"""
"""name | kind | material | where it is kept | what it is used for | length in cm | weight in g"""

MATERIALS = """
steel | hard | sinks in water | does not burn | an ore from a mine
iron | hard | sinks in water | does not burn | an ore from a mine
copper | shiny | sinks in water | does not burn | an ore from a mine
gold | shiny | sinks in water | does not burn | sand of a river
silver | shiny | sinks in water | does not burn | an ore from a mine
glass | clear | sinks in water | does not burn | melted sand
clay | soft when wet | sinks in water | does not burn | the ground
limestone | hard | sinks in water | does not burn | old sea shells
paper | thin | floats on water | burns easily | wood pulp
cardboard | stiff | floats on water | burns easily | wood pulp
oak | hard | floats on water | burns easily | a tree
pine | light | floats on water | burns easily | a tree
straw | dry | floats on water | burns easily | stalks of wheat
cotton | soft | floats on water | burns easily | a plant in a field
wool | soft | floats on water | burns easily | sheep
leather | tough | floats on water | burns slowly | the skin of cows
rubber | stretchy | floats on water | burns easily | the sap of a tree
wax | soft | floats on water | burns easily | bees
cork | light | floats on water | burns easily | the bark of a tree
plastic | light | floats on water | melts in a fire | oil
hemp | tough | floats on water | burns easily | a plant in a field
ice | cold | floats on water | melts in a fire | frozen water
"""
"""name | how it feels or looks | in water | in a fire | where it comes from"""

FOODS = """
apple | fruit | sweet | red | grows on a tree
lemon | fruit | sour | yellow | grows on a tree
banana | fruit | sweet | yellow | grows in warm countries
cherry | fruit | sweet | red | grows on a tree
orange | fruit | sweet | orange | grows in warm countries
strawberry | fruit | sweet | red | grows close to the ground
blueberry | fruit | sweet | blue | grows on a bush
grape | fruit | sweet | purple | grows on a vine
plum | fruit | sweet | purple | grows on a tree
lime | fruit | sour | green | grows in warm countries
carrot | vegetable | sweet | orange | grows under the ground
potato | vegetable | mild | brown | grows under the ground
onion | vegetable | sharp | brown | grows under the ground
tomato | vegetable | mild | red | grows on a vine
cucumber | vegetable | mild | green | grows on a vine
spinach | vegetable | bitter | green | grows close to the ground
pepper | spice | hot | black | grows on a vine
chilli | spice | hot | red | grows on a bush
ginger | spice | sharp | brown | grows under the ground
cinnamon | spice | sweet | brown | is the bark of a tree
honey | sweet food | sweet | golden | is made by bees
chocolate | sweet food | sweet | brown | is made from cocoa beans
cake | sweet food | sweet | brown | is baked in an oven
bread | baked food | mild | brown | is baked in an oven
pretzel | baked food | salty | brown | is baked in an oven
butter | dairy food | mild | yellow | is made from cream
cheese | dairy food | salty | yellow | is made from milk
yoghurt | dairy food | sour | white | is made from milk
milk | drink | mild | white | comes from cows
coffee | drink | bitter | black | is made from roasted beans
tea | drink | bitter | brown | is made from dried leaves
lemonade | drink | sour | yellow | is made from fruit
beer | drink | bitter | golden | is made from barley
salt | spice | salty | white | comes from the sea
sugar | spice | sweet | white | is made from cane
rice | grain | mild | white | grows in wet fields
wheat | grain | mild | golden | grows in dry fields
bacon | meat | salty | red | comes from pigs
salmon | fish dish | mild | pink | comes from rivers
vinegar | sauce | sour | clear | is made from wine
mustard | sauce | sharp | yellow | is made from seeds
olive | fruit | bitter | green | grows in warm countries
"""
"""name | kind | taste | colour | where it comes from"""


@dataclass(frozen=True)
class Thing:
    """An object with its length and weight."""

    name: str
    centimetres: float
    grams: float


def rows(table: str) -> list[list[str]]:
    """Split a table into its cells, line by line."""
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


def measured_things() -> list[Thing]:
    """Return the objects with their lengths and weights."""
    return [Thing(cells[0], float(cells[5]), float(cells[6])) for cells in rows(OBJECTS)]
