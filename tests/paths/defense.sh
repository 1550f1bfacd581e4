# One who writes a defense: a file, a config that names it, its column beside the others.
# It begins with a file that works, and changes what that does.
sau-bench new defense my_defense | grep 'sau-bench check my_defense.py'
sau-bench check my_defense.py | grep "^my_defense.py: defense 'My defense' keeps its contract"
sau-bench new defense my_defense 2> error.txt || test $? = 2
grep 'my_defense.py exists already' error.txt
# What breaks the contract is named with its line, and by a grid in the same words.
cp my_defense.py begun.py
sed -i 's/^\( *\)yield from .*/\1yield 0.5/' my_defense.py
sau-bench check my_defense.py > told.txt || test $? = 1
grep '^my_defense.py:[0-9]*: rounds are models: it yielded a number (0.5)' told.txt

cat > wrong.yaml <<'END'
datasets: [digits]
models: ["small_cnn:8"]
attacks: [badnets]
defenses: [my_defense.py]
recipe: {epochs: 1, lr: 0.05, batch_size: 64}
clean_ratio: 0.2
END
sau-bench run wrong.yaml > told.txt 2>&1 || test $? = 1
grep 'rounds are models: it yielded a number (0.5)' told.txt
# What it prints appears, and is named in its row, its report and by `why`.
sed 's/^\( *\)yield from .*/\1print("so far so good")\n&/' begun.py > my_defense.py
sau-bench check my_defense.py > told.txt || test $? = 1
grep "a plugin prints nothing: it printed 'so far so good'" told.txt
sau-bench run wrong.yaml | grep 'so far so good'
sau-bench why wrong.yaml defense=my_defense attack=badnets > told.txt
grep 'versions *torch .*sau-bench [0-9.]*$' told.txt
grep 'warning *a plugin prints nothing' told.txt
cp "$EXAMPLES/bn_reset.py" my_defense.py
sau-bench check my_defense.py

cat > mine.yaml <<'END'
datasets: [digits]
models: ["small_cnn:8"]
attacks: [badnets]
defenses:
  - ft: {recipe: {epochs: 2, batch_size: 64}}
  - my_defense.py
recipe: {epochs: 4, lr: 0.05, batch_size: 64}
clean_ratio: 0.2
END

sau-bench run mine.yaml --dry-run | grep '^3 jobs: 3 to run'
sau-bench run mine.yaml
sau-bench status mine.yaml
grep '^| Attack | No Defense | FT | [A-Z]' results/mine/report.md
# A defense that cannot be imported costs one line.
cp my_defense.py good.py
echo 'import nothing_of_this_name' >> my_defense.py
sau-bench run mine.yaml 2> error.txt || test $? = 2
grep "^error: my_defense.py cannot be imported.*nothing_of_this_name" error.txt
test "$(wc -l < error.txt)" = 1
# An edit runs the jobs of this defense again, and no other.
{ cat good.py; echo '# edited'; } > my_defense.py
sau-bench run mine.yaml | tee again.txt
test "$(grep -c started again.txt)" = 1
# What one argues with: the rule of another defense, by its name or label, without a new run.
echo 'select: {ft: last}' >> mine.yaml
sau-bench report mine.yaml
