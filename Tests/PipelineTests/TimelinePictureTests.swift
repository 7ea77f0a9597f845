import Foundation
import FoundationXML
import Pipeline
import Testing

@Suite struct TimelinePictureTests {
    /// Elements of a parsed document, in order, with attributes and text.
    final class Elements: NSObject, XMLParserDelegate {
        var all: [(name: String, attributes: [String: String], text: String)] = []
        private var open: [Int] = []

        init(_ text: String) throws {
            super.init()
            let parser = XMLParser(data: Data(text.utf8))
            parser.delegate = self
            try #require(parser.parse(), "\(parser.parserError.debugDescription)")
        }

        func parser(
            _ parser: XMLParser, didStartElement name: String, namespaceURI: String?, qualifiedName: String?,
            attributes: [String: String]
        ) {
            open.append(all.count)
            all.append((name, attributes, ""))
        }

        func parser(_ parser: XMLParser, didEndElement: String, namespaceURI: String?, qualifiedName: String?) {
            open.removeLast()
        }

        func parser(_ parser: XMLParser, foundCharacters text: String) { all[open.last!].text += text }

        func texts(_ name: String) -> [String] { all.filter { $0.name == name }.map(\.text) }
    }

    static func timelines(p: Int, m: Int, lowered: Bool = false) throws -> [[TimedAction]] {
        let compute = try ScheduleCatalog.training("1f1b", ScheduleRequest(rankCount: p, microBatchCount: m))
        var costs = CostModel.uniform(stageCount: p)
        costs.messages.latency = 0.25
        let schedule = lowered ? try Lowering.lower(compute) : compute
        return try Simulator.simulate(schedule, costs, keepsTimeline: true).timeline
    }

    @Test func everyActionIsABoxOfItsLength() throws {
        let svg = TimelinePicture.svg(
            [TimelinePicture.Panel(title: "predicted", timelines: try Self.timelines(p: 2, m: 2))])
        let elements = try Elements(svg)
        #expect(elements.all[0].name == "svg")
        let tips = elements.texts("title")
        #expect(tips.count == 8)
        #expect(tips.contains("F s0 m0 c0: 0 s to 1 s"))
        #expect(tips.contains("B s1 m0 c0: 2.25 s to 3.25 s"))
        let boxes = elements.all.indices.dropLast().filter {
            elements.all[$0].name == "rect" && elements.all[$0 + 1].name == "title"
        }
        let widths = Set(boxes.map { elements.all[$0].attributes["width"]! })
        #expect(boxes.count == 8 && widths.count == 1, "F and B take one second each: \(widths)")
        #expect(Set(boxes.map { elements.all[$0].attributes["fill"]! }).count == 2)
        // Labels, one row name per rank, bubbles: 4 of 6.5 seconds busy.
        let words = elements.texts("text")
        #expect(words.filter { $0 == "rank 0" || $0 == "rank 1" }.count == 2)
        #expect(words.filter { $0 == "0" }.count == 4 && words.filter { $0 == "1" }.count == 4)
        #expect(words.contains("predicted: bubble 38.5 %") && words.filter { $0 == "bubble 38.5 %" }.count == 2)
        #expect(words.contains("0 s") && words.contains("5 s") && words.contains("W weight gradient"))
    }

    @Test func panelsShareOneAxis() throws {
        let slow = try Self.timelines(p: 2, m: 2)
        // The same step at half the speed from another origin.
        let measured = slow.map {
            $0.map { TimedAction(action: $0.action, start: $0.start * 2 + 9, end: $0.end * 2 + 9) }
        }
        let elements = try Elements(
            TimelinePicture.svg(
                [.init(title: "predicted", timelines: slow), .init(title: "measured", timelines: measured)]))
        let boxes = elements.all.indices.dropLast().filter { elements.all[$0 + 1].name == "title" }
        let widths = boxes.map { Double(elements.all[$0].attributes["width"]!)! }
        #expect(widths.count == 16 && abs((widths[8] + 1) - 2 * (widths[0] + 1)) < 0.1)
        #expect(elements.all[boxes[0]].attributes["x"] == elements.all[boxes[8]].attributes["x"])
        #expect(Double(elements.all[boxes[0]].attributes["y"]!)! < Double(elements.all[boxes[8]].attributes["y"]!)!)
    }

    @Test func wordsAreEscapedAndEmptyPicturesDrawn() throws {
        let title = "a <b> & \"c\"\u{1}"
        let elements = try Elements(TimelinePicture.svg([.init(title: title, timelines: [[], []])], title: title))
        #expect(elements.texts("text").contains("a <b> & \"c\" "))
        _ = try Elements(TimelinePicture.svg([]))
    }

    @Test func sixteenRanksAndManyActionsStayReadable() throws {
        let timelines = try Self.timelines(p: 16, m: 32, lowered: true)
        let elements = try Elements(TimelinePicture.svg([.init(title: "predicted", timelines: timelines)]))
        let svg = elements.all[0].attributes
        #expect(Double(svg["width"]!)! == 1200 && Double(svg["height"]!)! < 600)
        for element in elements.all where element.name == "rect" {
            let x = Double(element.attributes["x"]!)!
            let width = Double(element.attributes["width"]!)!
            #expect(x >= 0 && x + width <= 1200 && width >= 0)
        }
        // 32 forwards and backwards in each of 16 rows.
        #expect(elements.texts("title").filter { $0.hasPrefix("F ") || $0.hasPrefix("B ") }.count == 16 * 64)
    }
}
