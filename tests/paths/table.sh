# One who reproduces a table: the config by its name, a try in small, a report with published cells.
sau-bench run paper/table3 --dry-run | grep '^66 jobs: 66 to run'
sau-bench run table3 --dry-run 2> error.txt || test $? = 2
grep "did you mean 'paper/table3'?" error.txt

sau-bench run paper/table3 --smoke --only attack=badnets --only defense=ft,defense=sau
test -s results/smoke/paper/table3/report.md
test ! -e results/paper

# Rows of another machine: the report needs them alone, neither their jobs nor torch.
mkdir -p results/cifar10_cpu
cp "$COMMITTED/cifar10_cpu/rows.csv" results/cifar10_cpu/
sau-bench report cifar10_cpu
grep -i '^### Table 3' results/cifar10_cpu/report.md
grep -i 'published' results/cifar10_cpu/tables/table3.md
