// Turns the JSON output of `go test` into a table of results, and prints their counts.
//
//	go run summarise.go OUTPUT.jsonl RESULTS.tsv
//
// A row is a package, a test and its result. Groups of subtests are rows too, but only leaves are counted:
// a group fails whenever one of its subtests does. Rows of packages that did not run this time are kept.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strings"
)

type line struct {
	Action  string
	Package string
	Test    string
}

type test struct {
	Package string
	Name    string
}

func main() {
	if len(os.Args) != 3 {
		fail("usage: go run summarise.go OUTPUT.jsonl RESULTS.tsv")
	}
	results, broken := read(os.Args[1])
	broken = keepOthers(os.Args[2], results, broken)
	tests := make([]test, 0, len(results))
	isGroup := map[test]bool{}
	for t := range results {
		tests = append(tests, t)
		if i := strings.LastIndex(t.Name, "/"); i >= 0 {
			isGroup[test{t.Package, t.Name[:i]}] = true
		}
	}
	sort.Slice(tests, func(i, j int) bool {
		if tests[i].Package != tests[j].Package {
			return tests[i].Package < tests[j].Package
		}
		return tests[i].Name < tests[j].Name
	})

	out, err := os.Create(os.Args[2])
	if err != nil {
		fail(err.Error())
	}
	defer out.Close()
	fmt.Fprintln(out, "package\ttest\tresult")
	counts := map[string]map[string]int{}
	for _, t := range tests {
		fmt.Fprintf(out, "%s\t%s\t%s\n", t.Package, t.Name, results[t])
		if isGroup[t] {
			continue
		}
		if counts[t.Package] == nil {
			counts[t.Package] = map[string]int{}
		}
		counts[t.Package][results[t]]++
		if counts["all"] == nil {
			counts["all"] = map[string]int{}
		}
		counts["all"][results[t]]++
	}
	for _, name := range broken {
		fmt.Fprintf(out, "%s\t\tbroken\n", name)
	}

	packages := make([]string, 0, len(counts))
	for name := range counts {
		packages = append(packages, name)
	}
	sort.Strings(packages)
	for _, name := range packages {
		c := counts[name]
		fmt.Printf("%-40s %4d pass %4d fail %4d skip %4d unfinished\n", name, c["pass"], c["fail"], c["skip"], c["unfinished"])
	}
	for _, name := range broken {
		fmt.Printf("%-40s did not run to its end\n", name)
	}
}

// keepOthers adds the earlier results of packages that are not among these.
func keepOthers(path string, results map[test]string, broken []string) []string {
	ran := map[string]bool{}
	for t := range results {
		ran[t.Package] = true
	}
	for _, name := range broken {
		ran[name] = true
	}
	earlier, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		fail(err.Error())
	}
	rows := strings.Split(strings.TrimSpace(string(earlier)), "\n")
	for _, row := range rows[1:] {
		columns := strings.Split(row, "\t")
		if len(columns) != 3 || ran[columns[0]] {
			continue
		}
		if columns[2] == "broken" {
			broken = append(broken, columns[0])
			continue
		}
		results[test{columns[0], columns[1]}] = columns[2]
	}
	sort.Strings(broken)
	return broken
}

// read returns the result of each test, and the packages that failed without a failed test: they did not build,
// or stopped in the middle.
func read(path string) (map[test]string, []string) {
	file, err := os.Open(path)
	if err != nil {
		fail(err.Error())
	}
	defer file.Close()
	results := map[test]string{}
	failed := map[string]bool{}
	hasFailedTest := map[string]bool{}
	scanner := bufio.NewScanner(file)
	scanner.Buffer(nil, 64<<20)
	for scanner.Scan() {
		var l line
		if json.Unmarshal(scanner.Bytes(), &l) != nil {
			continue
		}
		name := l.Package
		if i := strings.Index(name, "/tests"); i >= 0 {
			name = name[i+1:]
		}
		t := test{name, l.Test}
		switch l.Action {
		case "run":
			results[t] = "unfinished"
		case "pass", "skip", "fail":
			if l.Test != "" {
				results[t] = l.Action
				hasFailedTest[name] = hasFailedTest[name] || l.Action == "fail"
			} else if l.Action == "fail" {
				failed[name] = true
			}
		}
	}
	if err := scanner.Err(); err != nil {
		fail(err.Error())
	}
	var broken []string
	for name := range failed {
		if !hasFailedTest[name] {
			broken = append(broken, name)
		}
	}
	sort.Strings(broken)
	return results, broken
}

func fail(message string) {
	fmt.Fprintln(os.Stderr, message)
	os.Exit(1)
}
