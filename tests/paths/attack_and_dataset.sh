# One who writes an attack and a dataset of grey images, and defends against the one on the other.
# Files to begin with, of all kinds, keep their contract and run together.
for kind in attack dataset model; do
  sau-bench new $kind begun_$kind
  sau-bench check begun_$kind.py
done
cat > begun.yaml <<'END'
datasets: [begun_dataset.py]
models: [begun_model.py]
attacks: [begun_attack.py]
defenses: [ft: {recipe: {epochs: 1}}]
recipe: {epochs: 2, lr: 0.05, batch_size: 64}
clean_ratio: 0.2
END
sau-bench run begun.yaml
# A trigger that leaves [0, 1] fails its job, in the words of the contract.
sed 's/return stamped.*/return 2 * x/' begun_attack.py > bright.py
sau-bench check bright.py > told.txt || test $? = 1
grep 'a trigger stays in \[0, 1\]: values from 0 to 2' told.txt
sed 's/begun_attack/bright/' begun.yaml > bright.yaml
sau-bench run bright.yaml > told.txt 2>&1 || test $? = 1
grep 'a trigger stays in \[0, 1\]' told.txt
# Images that are not as the dataset says cost one line, before anything is trained.
sed 's/(1, 28, 28)/(3, 28, 28)/; s/\*self.shape,/1, 28, 28,/' begun_dataset.py > small.py
sed 's/begun_dataset/small/' begun.yaml > small.yaml
sau-bench run small.yaml 2> error.txt || test $? = 2
grep 'images are uint8 tensors of the declared shape: uint8 (400, 1, 28, 28)' error.txt
test "$(wc -l < error.txt)" = 1
sed 's/pictures = .*/pictures = None/' begun_dataset.py > small.py
sau-bench run small.yaml 2> error.txt || test $? = 2
grep "dataset '.*small.py': TypeError: 'NoneType'.*; see: sau-bench check .*small.py" error.txt
test "$(wc -l < error.txt)" = 1

cp "$EXAMPLES/stripe.py" my_attack.py
cp "$EXAMPLES/grey_digits.py" my_dataset.py
sau-bench check my_attack.py
sau-bench check my_dataset.py

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
