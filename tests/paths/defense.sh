# One who writes a defense: a file, a config that names it, its column beside the others.
cp "$EXAMPLES/bn_reset.py" my_defense.py

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
