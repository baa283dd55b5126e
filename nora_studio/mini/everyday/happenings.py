"""Tables of causes and effects, of procedures, and of situations with people's feelings."""

CAUSES = """
ice is heated | it melts
water is cooled far below zero | it freezes
water boils in a pot | it turns to steam
steam meets a cold window | drops of water form
a glass falls on a stone floor | it breaks
a rubber ball falls on a stone floor | it bounces
a magnet comes near iron nails | they stick to it
a plant gets no water | it withers
a seed gets water and warmth | it sprouts
a candle is covered with a jar | its flame goes out
wood is put into a fire | it turns to ash
iron is left in the rain | it rusts
milk is left in the sun | it turns sour
bread is left in a damp bag | it grows mould
sugar is stirred into hot tea | it dissolves
oil is poured into water | it swims on top
a stone is thrown into a lake | it sinks
a balloon meets a needle | it bursts
a balloon is filled with helium | it rises
the sun sets | it gets dark
the earth turns once | a day passes
the moon comes between earth and sun | the sun is darkened
the wind grows strong | leaves are torn off
clouds grow dark and heavy | it rains
it snows all night | the roads turn white
lightning strikes | thunder follows
the sea pulls back at the coast | the tide is low
a river carries too much water | it floods its banks
the ground shakes hard | houses collapse
a volcano erupts | lava flows down
autumn comes | birds fly south
winter comes | bears sleep in their caves
spring comes | flowers open
an apple comes loose from its branch | it drops to the ground
a ball is kicked uphill | it slows down
a cart is pushed downhill | it speeds up
a wheel is oiled | it turns with less noise
two hands are rubbed together | they get warm
a metal spoon stands in hot soup | its handle gets hot
a wet shirt hangs in the sun | it dries
a tyre has a hole | it goes flat
a battery is empty | the toy stops
the plug is pulled out | the lamp goes off
the brakes are pressed | the car stops
the tank is empty | the engine dies
the alarm rings at six | the sleeper wakes up
a room is not aired | the air gets stale
people eat too many sweets | their teeth decay
people run a long race | their hearts beat faster
people stand in strong sun without a hat | their skin burns
people do not sleep | they get tired
people smell pepper | they sneeze
people cut onions | their eyes water
a child eats nothing all day | it gets hungry
a bone is hit too hard | it breaks
a wound is not cleaned | it gets infected
a dog hears a stranger | it barks
a cat sees a mouse | it pounces
a bee feels attacked | it stings
a caterpillar sleeps in its cocoon | it becomes a butterfly
a hen sits on her eggs | chicks hatch
a tadpole grows legs | it becomes a frog
a forest is cut down | animals lose their homes
smoke fills the air of a town | people cough
a prism meets sunlight | a rainbow appears
a mirror meets light | it throws the light back
a rope is pulled from both sides | it gets tight
a spring is pressed together | it pushes back
dough rests with yeast | it rises
an egg lies in boiling water | it gets hard
butter lies in a hot pan | it melts away
salt is put on an icy path | the ice thaws
a sail catches the wind | the boat moves
a guitar string is plucked | it makes a sound
a drum is struck | its skin trembles
a ship has a hole | it goes under
a kite loses its wind | it comes down
a spider touches its web | the threads tremble
"""
"""if this happens | that follows"""

PROCEDURES = """
cut a sheet of paper | use {} to cut along the line | scissors
hang a picture | drive a nail into the wall with {} | a hammer
dry wet hands | rub them with {} | a towel
open a locked door | turn {} in the lock | a key
carry soup to the mouth | lift it with {} | a spoon
clean teeth | brush them with {} | a toothbrush
comb tangled hair | pull {} through it | a comb
light a candle | hold {} to the wick | a burning match
put out a candle | cover it with {} | a small metal cap
sweep a dusty floor | push the dust together with {} | a broom
wipe up spilled milk | soak it up with {} | a dry cloth
sew on a button | pull the thread through with {} | a needle
tighten a screw | turn it with {} | a screwdriver
loosen a nut | grip and turn it with {} | a wrench
dig a hole | lift out the earth with {} | a shovel
water the flowers | pour water from {} | a watering can
cut the grass | walk over it with {} | a lawn mower
gather leaves | pull them together with {} | a rake
chop firewood | split the logs with {} | an axe
reach a high shelf | climb onto {} | a ladder
keep food cold | put it into {} | a fridge
bake a cake | leave it for an hour in {} | a hot oven
boil an egg | lay it for six minutes in {} | bubbling water
make toast | brown the bread in {} | a toaster
grate cheese | rub it over {} | a grater
peel potatoes | take off the skin with {} | a peeler
open a can | cut the lid with {} | a can opener
open a bottle of wine | pull the cork with {} | a corkscrew
drain noodles | pour them into {} | a strainer
roll out dough | press it flat with {} | a rolling pin
whip cream | beat it fast with {} | a whisk
weigh flour | pour it onto {} | a kitchen scale
measure a fever | put under the tongue {} | a thermometer
cover a small cut | press onto the skin {} | a plaster
cool a burn | hold the skin under {} | cold running water
soothe a sore throat | drink slowly {} | warm tea with honey
stay dry in the rain | hold over the head {} | an umbrella
keep the hands warm | pull over the fingers {} | woollen gloves
protect the eyes from the sun | put on the nose {} | dark glasses
protect the head on a bicycle | fasten under the chin {} | a helmet
walk on deep snow | strap under the boots {} | snowshoes
see in the dark | shine ahead with {} | a torch
find north in a forest | look at the needle of {} | a compass
look at the moon closely | look through {} | a telescope
see tiny germs | put them under {} | a microscope
cross a lake | row over it in {} | a boat
float in a pool | hold on to {} | an air mattress
catch a fish | lower into the water {} | a hook with a worm
keep a boat in place | drop to the ground {} | an anchor
pitch a tent in the wind | fasten its corners with {} | pegs
start a campfire | lay under the logs {} | dry twigs
roast a marshmallow | hold it over the fire on {} | a long stick
wrap a present | fold around it {} | coloured paper
send a letter | stick on the envelope {} | a stamp
erase a pencil line | rub it away with {} | an eraser
draw a straight line | move the pencil along {} | a ruler
mend a broken cup | join the pieces with {} | strong glue
hold papers together | push over their edge {} | a paper clip
iron a shirt | smooth the cloth with {} | a hot iron
remove a wine stain | sprinkle on the cloth {} | salt
wash greasy dishes | add to the water {} | some soap
clean a window | wipe the glass with {} | vinegar and newspaper
unblock a sink | press up and down with {} | a plunger
pump up a tyre | press air into it with {} | a bicycle pump
tow a car | tie it to the truck with {} | a strong rope
paint a wall | spread the colour with {} | a roller
smooth a rough board | rub it with {} | sandpaper
make a hole in a board | turn into the wood {} | a drill
pull out a nail | grip its head with {} | pliers
carry bricks | push them along in {} | a wheelbarrow
feed a baby | give it milk from {} | a bottle
walk a dog | fasten to its collar {} | a leash
keep mosquitoes off a bed | hang over it {} | a fine net
keep a door from closing | push under it {} | a wedge
grow tomatoes from seed | press the seeds into {} | moist soil
make lemonade | stir into the water {} | lemon juice and sugar
make a snowman's nose | push into its face {} | a carrot
keep cut flowers fresh | stand them in {} | a vase of water
"""
"""to do this | do it so, {} for the thing | the right thing"""

SITUATIONS = """
won the first prize at school | proud | train hard | celebrate with the family
lost the wallet on the bus | worried | ride on the bus | ask at the lost property office
broke a friend's favourite cup | guilty | pick up the cup | buy a new cup
forgot the wedding day | ashamed | be married | bring flowers as an apology
heard a loud noise at night | frightened | lie awake | look through the keyhole
got a puppy for the birthday | overjoyed | wish for a pet | choose a name for it
waited two hours for the train | annoyed | go to the station | complain to the railway
moved away to a new town | lonely | pack all belongings | meet the neighbours
helped an old man across the road | useful | see that he needed help | wave goodbye to him
was laughed at by the class | hurt | say something wrong | sit alone at lunch
found a kitten in the snow | caring | walk through the snow | take it home to the warm stove
ate nothing since breakfast | hungry | skip lunch | cook a big meal
ran ten miles without a break | exhausted | put on running shoes | lie down on the sofa
saw a snake on the path | alarmed | go for a hike | walk back slowly
got a letter from an old friend | nostalgic | open the letter box | write back at once
watched the same film four times | bored | turn on the television | choose another film
gave a speech to a hundred people | nervous | write the speech | drink a glass of water
was accused of a lie | indignant | tell a strange story | prove that it was true
solved a riddle that nobody could solve | clever | think for a long time | tell the others the trick
missed the last bus home | stranded | stay too long at the party | call a taxi
cheated in the exam | dishonest | hide notes in a sleeve | be sent to the headmaster
shared the last biscuit | generous | buy biscuits | eat half of it
shouted at the little brother | sorry | lose patience | say sorry to him
slept only three hours | sleepy | work late into the night | go to bed early
was given the wrong meal | displeased | order at the restaurant | call the waiter
planted a tree with the children | hopeful | dig a hole | water the young tree
lost the final match | disappointed | reach the final | shake hands with the winners
was praised by the boss | appreciated | finish the project early | thank the boss
dropped the ice cream on the ground | sad | buy an ice cream | throw it into the bin
rode the roller coaster twice | thrilled | buy a ticket | show the photo to friends
saw somebody steal an apple | outraged | look at the market stall | tell the shopkeeper
got lost in the big city | confused | leave without a map | ask a stranger for the way
finished the long book | satisfied | read every evening | bring it back to the library
caught a bad cold | sick | walk in the rain without a coat | drink hot tea in bed
saved money for a whole year | patient | open a savings account | buy a new bicycle
was invited to a party | included | make friends | bring a present
spilled ink over the homework | frustrated | open the ink bottle | write it all again
heard that the exam was cancelled | relieved | worry about the exam | go swimming instead
saw a friend with a nicer toy | jealous | visit the friend | ask to play with it
stood up for a bullied child | brave | notice the bullying | walk home with the child
listened to a sad story | compassionate | sit down beside the teller | give a hug
told the secret to everyone | unreliable | learn the secret | be trusted no more
visited grandmother in hospital | concerned | ask for the room number | bring her home when well
sang off key on the stage | embarrassed | enter the contest | leave the stage quickly
got the last ticket for the concert | lucky | stand in the queue | find a seat in the hall
fixed the neighbour's bicycle | handy | fetch the tools | get a cake as thanks
saw the first snow of the year | delighted | look out of the window | build a snowman
climbed the highest mountain | triumphant | prepare for months | put a flag on the top
found out that the vase was a fake | cheated | pay a high price | demand the money back
walked through a dark forest alone | scared | take the short way | hurry home
was late for the meeting | flustered | miss the alarm | apologise to everyone
painted the whole house alone | tired | buy a lot of paint | clean the brushes
received a scholarship | grateful | send an application | start at the university
taught a child to swim | rewarded | get into the pool | let the child swim alone
burned the dinner | upset | leave the stove alone | order a pizza
lied to the best friend | remorseful | hide the truth | confess everything
did not get any present | forgotten | have a birthday | tell mother about it
saw a shooting star | enchanted | look at the sky | make a wish
was pushed in the queue | angry | wait at the counter | ask the person to stop
carried the heavy bags upstairs | out of breath | go shopping | rest on a chair
"""
"""somebody ... | how they feel | what they did before | what they do next"""

NAMES = """
Alex Anna Ben Bruno Carla Casey Clara David Dora Eli Emma Felix Finn Greta Hugo Ida Ivan Jack Jane
Jonas Jordan Kai Kate Kendall Lee Lena Leo Lisa Lucas Maria Max Mia Nina Noah Nora Olga Oscar Paul
Peter Quinn Remy Riley Robin Rosa Ruth Sam Sarah Sasha Skylar Sven Taylor Theo Tim Tom Tracy Vera
Victor Will Zoe
"""
"""People's first names."""
