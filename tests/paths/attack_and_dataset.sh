# One who writes an attack and a dataset of grey images, and defends against the one on the other.
cp "$EXAMPLES/stripe.py" my_attack.py
cp "$EXAMPLES/grey_digits.py" my_dataset.py

cat > mine.yaml <<'END'
datasets: [my_dataset.py]
models: ["small_cnn:8"]
attacks:
  - badnets
  - my_attack.py: {ratio: [0.05, 0.1]}
defenses: [ft: {recipe: {epochs: 2, batch_size: 64}}]
recipe: {epochs: 4, lr: 0.05, batch_size: 64}
clean_ratio: 0.2
data: pictures
END

# The files are missing: the error names the command that makes them.
sau-bench run mine.yaml 2> error.txt || test $? = 2
command=$(sed -n 's/.*make it with: //p' error.txt)
[[ $command == "sau-bench fetch "*my_dataset.py" --data pictures" ]]
$command

sau-bench run mine.yaml
sau-bench show mine.yaml | grep 'attacks.png$'
rows=results/mine/rows.csv
test "$(tail -n +2 $rows | cut -d, -f3 | sort -u | wc -l)" = 3
grep -c ',ok,' $rows
grep '^| .* (ratio=0.05) |' results/mine/report.md
