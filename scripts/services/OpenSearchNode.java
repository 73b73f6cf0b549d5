import java.util.Arrays;
import org.codelibs.opensearch.runner.OpenSearchRunner;

/**
 * One node of OpenSearch, as the runner's own main makes it, but of the given roles: OpenSearchNode FOLDER PORT CLUSTER
 * ROLE... It ends when it is told to (SIGTERM).
 */
public class OpenSearchNode {
    public static void main(String[] arguments) throws Exception {
        String[] roles = Arrays.copyOfRange(arguments, 3, arguments.length);
        OpenSearchRunner runner = new OpenSearchRunner();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                runner.close();
            } catch (Exception e) {
                e.printStackTrace();
            }
        }));
        runner.onBuild((number, settings) -> settings.putList("node.roles", roles));
        // The runner gives its nodes the ports that follow the base.
        runner.build(OpenSearchRunner.newConfigs()
            .basePath(arguments[0])
            .numOfNode(1)
            .baseHttpPort(Integer.parseInt(arguments[1]) - 1)
            .clusterName(arguments[2]));
        Thread.sleep(Long.MAX_VALUE);
    }
}
