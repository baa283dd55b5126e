"""Animals and jobs as tables; a row is one of them, a column one kind of fact."""

ANIMALS = """
cow | mammal | farm | grass | calf | moos
pig | mammal | farm | scraps | piglet | grunts
sheep | mammal | meadow | grass | lamb | bleats
goat | mammal | mountain | leaves | kid | bleats
horse | mammal | stable | hay | foal | neighs
donkey | mammal | farm | hay | foal | brays
dog | mammal | house | bones | puppy | barks
cat | mammal | house | mice | kitten | meows
rabbit | mammal | burrow | carrots | bunny | squeaks
mouse | mammal | barn | grain | pup | squeaks
hedgehog | mammal | garden | worms | hoglet | snuffles
squirrel | mammal | forest | nuts | kit | chatters
fox | mammal | forest | rabbits | cub | yelps
wolf | mammal | forest | deer | pup | howls
bear | mammal | forest | honey | cub | growls
deer | mammal | forest | leaves | fawn | bellows
lion | mammal | grassland | zebras | cub | roars
zebra | mammal | grassland | grass | foal | brays
giraffe | mammal | grassland | leaves | calf | hums
elephant | mammal | grassland | bark | calf | trumpets
hippo | mammal | river | grass | calf | grunts
monkey | mammal | jungle | bananas | infant | screeches
tiger | mammal | jungle | deer | cub | roars
sloth | mammal | jungle | leaves | infant | squeaks
panda | mammal | mountain | bamboo | cub | bleats
camel | mammal | desert | thorns | calf | grunts
kangaroo | mammal | desert | grass | joey | clicks
polar bear | mammal | ice | seals | cub | growls
seal | mammal | ice | fish | pup | barks
whale | mammal | ocean | krill | calf | sings
dolphin | mammal | ocean | fish | calf | clicks
bat | mammal | cave | insects | pup | squeaks
hen | bird | farm | grain | chick | clucks
duck | bird | pond | water plants | duckling | quacks
goose | bird | pond | grass | gosling | honks
owl | bird | forest | mice | owlet | hoots
eagle | bird | mountain | rabbits | eaglet | screeches
penguin | bird | ice | fish | chick | brays
parrot | bird | jungle | nuts | chick | talks
ostrich | bird | grassland | seeds | chick | booms
swan | bird | lake | water plants | cygnet | hisses
gull | bird | coast | fish | chick | screeches
pigeon | bird | town | crumbs | squab | coos
crow | bird | field | worms | chick | caws
frog | amphibian | pond | flies | tadpole | croaks
toad | amphibian | garden | insects | tadpole | croaks
snake | reptile | desert | mice | snakelet | hisses
lizard | reptile | desert | insects | hatchling | is silent
crocodile | reptile | river | zebras | hatchling | bellows
turtle | reptile | ocean | jellyfish | hatchling | is silent
shark | fish | ocean | fish | pup | is silent
trout | fish | river | flies | fry | is silent
goldfish | fish | bowl | flakes | fry | is silent
bee | insect | hive | nectar | larva | buzzes
ant | insect | ant hill | crumbs | larva | is silent
butterfly | insect | meadow | nectar | caterpillar | is silent
beetle | insect | forest | bark | grub | is silent
cricket | insect | field | grass | nymph | chirps
spider | spider | web | flies | spiderling | is silent
octopus | mollusc | ocean | crabs | hatchling | is silent
snail | mollusc | garden | lettuce | snailet | is silent
"""
"""name | class | where it lives | what it eats | its young | its sound"""

JOBS = """
farmer | farm | tractor | grows wheat
baker | bakery | oven | makes bread
butcher | butcher's shop | cleaver | cuts meat
cook | restaurant | pan | prepares dinner
waiter | restaurant | tray | brings the meals
teacher | school | blackboard | explains lessons
librarian | library | catalogue | lends books
doctor | hospital | stethoscope | listens to hearts
nurse | hospital | syringe | looks after patients
dentist | dental practice | drill | repairs teeth
vet | animal clinic | bandage | heals animals
pharmacist | pharmacy | scale | sells medicine
firefighter | fire station | hose | puts out fires
police officer | police station | handcuffs | catches thieves
judge | court | gavel | decides about guilt
soldier | barracks | rifle | defends the country
pilot | airport | plane | flies passengers
sailor | harbour | anchor | sails the sea
fisherman | harbour | net | catches fish
driver | bus depot | bus | drives passengers
mechanic | garage | wrench | repairs cars
carpenter | workshop | saw | builds cupboards
blacksmith | forge | anvil | shapes hot iron
plumber | cellar | pipe | repairs taps
electrician | building site | cable | connects lamps
bricklayer | building site | trowel | builds walls
painter | studio | brush | paints pictures
photographer | studio | camera | takes photographs
sculptor | studio | chisel | carves statues
musician | concert hall | violin | plays music
singer | stage | microphone | sings songs
actor | theatre | costume | plays a part
dancer | theatre | ballet shoes | dances on stage
tailor | tailor's shop | needle | sews suits
shoemaker | cobbler's shop | awl | mends shoes
hairdresser | salon | scissors | cuts hair
gardener | garden | rake | looks after flowers
florist | flower shop | ribbon | binds bouquets
forester | forest | axe | looks after trees
miner | mine | pickaxe | digs for coal
astronomer | observatory | telescope | studies stars
chemist | laboratory | test tube | mixes substances
programmer | office | computer | writes programs
accountant | office | calculator | adds up bills
secretary | office | telephone | arranges meetings
cashier | supermarket | till | takes the money
postman | post office | mailbag | delivers letters
shepherd | meadow | staff | guards sheep
beekeeper | hive | smoker | gathers honey
lifeguard | beach | whistle | saves swimmers
cleaner | hotel | mop | wipes floors
journalist | newspaper | notepad | reports the news
architect | drawing office | ruler | plans houses
jeweller | jeweller's shop | loupe | makes rings
watchmaker | watch shop | tweezers | repairs clocks
optician | eyewear shop | eye chart | fits glasses
conductor | opera house | baton | leads an orchestra
referee | stadium | red card | watches over a match
"""
"""name | where they work | what they work with | what they do"""
