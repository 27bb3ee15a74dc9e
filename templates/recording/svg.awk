# From lines "SECONDS<tab>TEXT" to an animated SVG, in which each line of TEXT appears when
# it did. It has neither scripts nor links. A dark rectangle covers what has not been said
# yet, and moves down; a viewer that does not animate shows the whole text.
BEGIN {
	FS = "\t"
	width = 840; row = 17; columns = 104
	longest_pause = 1.5; shown_at_end = 8 # seconds
}

{
	if (NR == 1)
		first = last = $1
	pause = $1 - last
	last = $1
	clock += pause < longest_pause ? pause : longest_pause
	appears[NR] = clock
	text[NR] = plain(substr($0, length($1) + 2))
}

END {
	height = (NR + 1) * row
	total = clock + shown_at_end
	printf "<svg xmlns=\"http://www.w3.org/2000/svg\" xml:space=\"preserve\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\">\n", width, height, width, height
	printf "<title>A real run, which took %.0f seconds; pauses are shortened to %.1f seconds</title>\n", last - first, longest_pause
	print "<style>"
	print "rect { fill: #1c1f26 }"
	print "text { fill: #d8dee9; font: 13px monospace; white-space: pre }"
	print "text.typed { fill: #ffffff; font-weight: bold }"
	print "text.last { fill: #8fd694; font-weight: bold }"
	printf "#cover { transform: translateY(%dpx); animation: uncover %.1fs step-end infinite }\n", height, total
	print "@media (prefers-reduced-motion) { #cover { animation: none } }"
	print "@keyframes uncover {"
	for (i = 1; i <= NR; i++)
		printf "%.2f%% { transform: translateY(%dpx) }\n", 100 * appears[i] / total, i * row + row / 2
	print "}"
	print "</style>"
	print "<rect width=\"100%\" height=\"100%\"/>"
	for (i = 1; i <= NR; i++)
		printf "<text x=\"10\" y=\"%d\"%s>%s</text>\n", i * row + 3, class(i), text[i]
	print "<rect id=\"cover\" width=\"100%\" height=\"100%\"/>"
	print "</svg>"
}

function class(i) {
	return i == 1 ? " class=\"typed\"" : i == NR ? " class=\"last\"" : ""
}

# plain: printable ASCII only, at most so many columns, and nothing that XML would take for
# its own.
function plain(line) {
	gsub(/[^ -~]/, "", line)
	if (length(line) > columns)
		line = substr(line, 1, columns - 3) "..."
	gsub(/&/, "\\&amp;", line)
	gsub(/</, "\\&lt;", line)
	return line
}
